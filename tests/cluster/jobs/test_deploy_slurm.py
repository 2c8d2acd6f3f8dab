"""slurm.sbatch against a Slurm, a Ray and a cuts3d that only note down how they were called."""

import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import ROOT
from support.waiting import wait_for

SCRIPT = ROOT / "cluster" / "deploy" / "slurm.sbatch"
NODES = {"node-a": "10.1.0.1", "node-b": "10.1.0.2", "node-c": "10.1.0.3"}

# Each prints one line into $CALLS. srun runs its command here, as if on the node that --nodelist names.
FAKES = {
    "srun": r"""
echo "srun ${*//$'\n'/ }" >>"$CALLS"
node=all
while [[ $1 == --* ]]; do
    [[ $1 == --nodelist=* ]] && node=${1#*=}
    shift
done
[[ $1 == rm ]] && exec "$@"
trap 'kill -TERM $!; wait $!; exit 143' TERM
FAKE_NODE=$node SLURM_CPUS_PER_TASK=8 SLURM_GPUS_ON_NODE=4 "$@" &
wait $!
""",
    "scontrol": r"""
if [[ $1 == show ]]; then tr ' ' '\n' <<<"$FAKE_NODES"; exit 0; fi
echo "scontrol $*" >>"$CALLS"
[[ -z ${FAKE_REFUSAL:-} ]]
""",
    "ray": r"""
if [[ $1 == status ]]; then
    [[ $3 == "$FAKE_HEAD" && -e $CALLS.up ]] || exit 1
    exit 0
fi
token="$(stat -c %a "$RAY_AUTH_TOKEN_PATH"):$(<"$RAY_AUTH_TOKEN_PATH")"
note="ray on $FAKE_NODE token=$token mode=$RAY_AUTH_MODE $*"
[[ " ${FAKE_BROKEN:-} " == *" $FAKE_NODE "* ]] && { echo "$note" >>"$CALLS"; exit 3; }
if [[ ${FAKE_BROKEN_ONCE:-} == "$FAKE_NODE" && ! -e $CALLS.once ]]; then touch "$CALLS.once"; exit 3; fi
trap 'echo "ray on $FAKE_NODE ended" >>"$CALLS"; kill $!; exit 1' TERM
sleep 3600 &
echo "$note" >>"$CALLS"
[[ $2 == --head ]] && touch "$CALLS.up"
wait $!
""",
    "cuts3d": r"""
token="$(stat -c %a "$RAY_AUTH_TOKEN_PATH"):$(<"$RAY_AUTH_TOKEN_PATH")"
trap 'echo "cuts3d ended" >>"$CALLS"; kill $!; exit 143' TERM
sleep 3600 &
echo "cuts3d token=$token inline=${RAY_AUTH_TOKEN:-none} $*" >>"$CALLS"
if [[ -n ${FAKE_STATUS:-} ]]; then
    until (($(grep -o '^ray on [^ ]*' "$CALLS" | sort -u | wc -l) == $(wc -w <<<"$FAKE_NODES"))); do sleep 0.05; done
    kill $!
    exit "$FAKE_STATUS"
fi
wait $!
""",
    "hostname": 'echo "$FAKE_NODE"\n',
    "getent": r"""
case $2 in
    node-a) echo "127.0.1.1 STREAM"; echo "10.1.0.1 STREAM" ;;
    node-b) echo "10.1.0.2 STREAM" ;;
    node-c) echo "10.1.0.3 STREAM" ;;
esac
""",
}


@dataclass
class Job:
    """A job of the fake Slurm: starts the script, reads what was called."""

    folder: Path
    number: int

    @property
    def first_port(self) -> int:
        return 20000 + self.number % 1270 * 10

    @property
    def ray_folder(self) -> Path:
        return Path(f"/tmp/cuts3d-{self.number}")

    def start(self, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
        environment = {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(self.folder / "home"),
            "CALLS": str(self.folder / "calls"),
            "CUTS3D_VENV": str(self.folder / "no-venv"),
            "CUTS3D_RETRY_DELAY": "0.1",
            "SLURM_JOB_ID": str(self.number),
            "SLURM_JOB_NODELIST": "node-[a-c]",
            "FAKE_NODES": " ".join(NODES),
            "FAKE_HEAD": f"10.1.0.1:{self.first_port}",
            "RAY_AUTH_TOKEN": "left over from a login shell",
        }
        return subprocess.Popen(
            ["bash", SCRIPT, *arguments], env=environment | settings, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, **settings: str) -> tuple[int, str]:
        """Exit status and messages of the script."""
        process = self.start(*arguments, **settings)
        messages = process.communicate()[1]
        return process.returncode, messages

    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def wait_until_all_work(self, process: "subprocess.Popen[str]") -> None:
        """Until the driver and a Ray on each node have been started."""
        wanted = ["cuts3d token", *(f"ray on {node} token" for node in NODES)]
        wait_for(
            lambda: all(any(call.startswith(begin) for call in self.calls()) for begin in wanted),
            f"all of {wanted}",
            process,
        )


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    (tmp_path / "bin").mkdir()
    (tmp_path / "home").mkdir()
    for name, body in FAKES.items():
        file = tmp_path / "bin" / name
        file.write_text("#!/usr/bin/env bash\n" + body)
        file.chmod(0o755)
    job = Job(tmp_path, 10_000_000 + secrets.randbelow(80_000_000))
    yield job
    shutil.rmtree(job.ray_folder, ignore_errors=True)


def token_of(call: str) -> tuple[str, str]:
    """Mode of the token's file, and the token, as a fake has noted them."""
    found = re.search(r"token=(\d+):(\w*)", call)
    assert found, call
    return found[1], found[2]


def test_shellcheck_finds_nothing() -> None:
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    assert shellcheck, "no shellcheck: make install-test"
    found = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_slurm_is_asked_to_requeue_and_to_warn_before_the_end() -> None:
    directives = re.findall(r"^#SBATCH (\S+)", SCRIPT.read_text(), re.MULTILINE)
    # B: the batch shell alone gets the signal; --no-kill: a lost node does not end the job.
    assert {"--requeue", "--signal=B:USR1@120", "--no-kill", "--ntasks-per-node=1"} <= set(directives)


def test_a_jobs_ports_are_out_of_the_way_of_rays_workers_and_of_the_systems_own() -> None:
    for number in (1, 1269, 1270, 4_294_967_295):
        first = Job(Path(), number).first_port
        assert first >= 20000
        assert first + 9 < 32768


def test_a_complete_run_in_the_right_order(job: Job) -> None:
    status, messages = job.run("--out", "/shared/a run", "--images", "/photos", FAKE_STATUS="0")
    assert status == 0, messages
    calls = job.calls()
    rays = [call for call in calls if call.startswith("ray on") and " start " in call]
    head, *workers = rays
    assert head.startswith("ray on node-a ")
    assert f" start --head --port={job.first_port} --dashboard-host=127.0.0.1 " in head
    assert sorted(call.split()[2] for call in workers) == ["node-b", "node-c"]
    for call in rays:
        node = call.split()[2]
        assert f"--node-ip-address={NODES[node]} --num-cpus=8 --num-gpus=4 " in call
        assert f"--temp-dir={job.ray_folder}/ray " in call
        assert "mode=token" in call
        assert "0.0.0.0" not in call
    ports = [int(port) for port in re.findall(r"port=(\d+)", head)]
    assert len(ports) == len(set(ports)) == 9
    assert all(job.first_port <= port < job.first_port + 10 for port in ports)
    assert all(f" start --address=10.1.0.1:{job.first_port} --block " in call for call in workers)

    (driver,) = [call for call in calls if call.startswith("cuts3d token")]
    assert driver.endswith(f"run --ray 10.1.0.1:{job.first_port} --out /shared/a run --images /photos")
    assert "inline=none" in driver
    last_start = max(calls.index(call) for call in calls if call.startswith("srun") and "ray-worker" in call)
    first_end = min(calls.index(call) for call in calls if call.endswith("ended"))
    assert calls.index(head) < last_start
    assert calls.index(driver) < first_end
    assert {call for call in calls if call.endswith("ended")} == {f"ray on {node} ended" for node in NODES}
    assert calls[-1].endswith(f"rm -rf {job.ray_folder}")
    assert not job.ray_folder.exists()


def test_the_token_is_in_a_file_that_nobody_else_can_read_and_gone_afterwards(job: Job) -> None:
    folder = job.folder / "home" / ".cache" / "cuts3d" / "slurm"
    process = job.start()
    job.wait_until_all_work(process)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    process.terminate()
    process.communicate()
    tokens = {token_of(call) for call in job.calls() if "token=" in call}
    assert len(tokens) == 1
    ((mode, first),) = tokens
    assert mode == "600"
    assert len(first) == 64
    assert not any(first in call for call in job.calls() if call.startswith("srun"))  # what `ps` shows
    assert not list(folder.iterdir())
    (job.folder / "calls").unlink()
    job.run(FAKE_STATUS="0")
    seconds = {token_of(call)[1] for call in job.calls() if "token=" in call}
    assert len(seconds) == 1
    assert first not in seconds


@pytest.mark.parametrize("status", ["1", "2"])
def test_the_runs_exit_status_is_the_jobs(job: Job, status: str) -> None:
    found, messages = job.run(FAKE_STATUS=status)
    assert found == int(status)
    assert f"{job.ray_folder}/ray/session_latest/logs" in messages
    assert job.ray_folder.exists()  # with the logs
    assert sum(call.endswith("ended") for call in job.calls()) == 3
    assert not any(call.startswith("scontrol requeue") for call in job.calls())


@pytest.mark.slow
def test_near_the_time_limit_everything_is_stopped_and_then_the_job_is_requeued(job: Job) -> None:
    process = job.start("--out", "/shared/first")
    job.wait_until_all_work(process)
    process.send_signal(signal.SIGUSR1)
    messages = process.communicate()[1]
    assert process.returncode == 0
    calls = job.calls()
    assert calls[-1] == f"scontrol requeue {job.number}"
    assert sorted(call for call in calls if call.endswith("ended")) == [
        "cuts3d ended",
        *(f"ray on {node} ended" for node in NODES),
    ]
    assert calls.index("cuts3d ended") < calls.index("ray on node-a ended")
    assert "the time limit is near" in messages
    # The second start of the same job finds its own folders and goes on.
    (job.folder / "calls").unlink()
    (job.folder / "calls.up").unlink()
    status, messages = job.run("--out", "/shared/first", FAKE_STATUS="0", SLURM_RESTART_COUNT="1")
    assert status == 0
    assert "start 1 of job" in messages


def test_a_job_that_slurm_does_not_requeue_says_what_to_do(job: Job) -> None:
    process = job.start(FAKE_REFUSAL="yes")
    job.wait_until_all_work(process)
    process.send_signal(signal.SIGUSR1)
    messages = process.communicate()[1]
    assert process.returncode == 1
    assert "give the same sbatch command again" in messages


def test_a_worker_that_does_not_start_takes_nobody_with_it(job: Job) -> None:
    status, _ = job.run(FAKE_STATUS="0", FAKE_BROKEN="node-b")
    assert status == 0
    assert {call for call in job.calls() if call.endswith("ended")} == {"ray on node-a ended", "ray on node-c ended"}


def test_a_worker_that_the_head_was_too_busy_for_tries_again(job: Job) -> None:
    status, messages = job.run(FAKE_STATUS="0", FAKE_BROKEN_ONCE="node-c")
    assert status == 0
    assert "Ray ended on node-c, once more in 0.1 s" in messages
    assert "ray on node-c ended" in job.calls()


def test_a_head_that_ends_at_once_is_said_and_no_driver_is_started(job: Job) -> None:
    status, messages = job.run(FAKE_STATUS="0", FAKE_BROKEN="node-a")
    assert status == 2
    assert "Ray's head ended before it was up" in messages
    assert not any(call.startswith("cuts3d") for call in job.calls())


@pytest.mark.slow
def test_a_head_that_never_answers_is_given_up(job: Job) -> None:
    status, messages = job.run(FAKE_HEAD="elsewhere", CUTS3D_START_TIMEOUT="1")
    assert status == 2
    assert f"Ray's head at 10.1.0.1:{job.first_port} is not up after 1 s" in messages
    assert "ray on node-a ended" in job.calls()


def test_a_folder_of_somebody_elses_is_not_used_for_ray(job: Job) -> None:
    (job.folder / "theirs").mkdir()
    job.ray_folder.symlink_to(job.folder / "theirs")
    try:
        status, messages = job.run(FAKE_STATUS="0")
    finally:
        job.ray_folder.unlink()
    assert status == 2
    assert f"{job.ray_folder} on node-a is somebody else's" in messages


def test_a_node_without_an_address_names_the_remedy(job: Job) -> None:
    status, messages = job.run(FAKE_STATUS="0", FAKE_NODES="node-x")
    assert status == 2
    assert "no IPv4 address of node-x on node-x: set CUTS3D_INTERFACE" in messages


def test_a_missing_program_names_the_remedy(job: Job) -> None:
    (job.folder / "bin" / "ray").unlink()
    status, messages = job.run()
    assert status == 2
    assert "there is no ray on PATH: set CUTS3D_VENV" in messages


def test_without_slurm_it_says_how_it_is_started() -> None:
    found = subprocess.run(["bash", SCRIPT], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert found.returncode != 0
    assert "start this file with sbatch" in found.stderr


def test_only_processes_of_its_own_are_ended() -> None:
    commands = [line for line in SCRIPT.read_text().splitlines() if not line.lstrip().startswith("#")]
    assert not re.search(r"\bray stop\b|\bpkill\b|\bkillall\b", "\n".join(commands))
