#!/bin/sh
# Put the compiled mmcv in the place of mmcv-lite, for models of MMDetection that need more of its operators than our detectors
# do. It is built against the torch of this environment, once: the wheel is cached per user, keyed by the versions that it was
# built with, and taken from there the next time. Needed: g++ (CUDA operators: nvcc, too). Usage: install_mmcv.sh PYTHON
#
# The way back: PYTHON -m pip uninstall mmcv, then `make install-detector`, or pip install mmcv-lite==2.1.0.
set -eu
python=$1
mmcv=2.1.0
key=$("$python" -c 'import sys, platform, torch; print(f"py{sys.version_info[0]}{sys.version_info[1]}-torch{torch.__version__}-{platform.machine()}")')
cache=${CUTS3D_WHEELS:-${XDG_CACHE_HOME:-$HOME/.cache}/cuts3d/wheels}/mmcv-$mmcv-$key

if ! ls "$cache"/mmcv-*.whl >/dev/null 2>&1; then
    echo "building mmcv $mmcv (5 to 10 minutes on two cores), kept in $cache"
    "$python" -m pip install --quiet --disable-pip-version-check 'setuptools==80.9.0' wheel ninja
    mkdir -p "$cache"
    # Optimised without debug information: a third of the time, a tenth of the size. CPU operators, or CUDA where nvcc is.
    # pip's own cache does not ask which torch a wheel was built with.
    MMCV_WITH_OPS=1 CFLAGS="-O2 -g0 -DNDEBUG -w" MAX_JOBS=${MAX_JOBS:-2} \
        "$python" -m pip wheel --no-cache-dir --quiet --disable-pip-version-check --no-build-isolation --no-deps \
        --wheel-dir "$cache.building" "mmcv==$mmcv"
    mv "$cache.building"/mmcv-*.whl "$cache"/
    rmdir "$cache.building"
fi
# Both own the folder mmcv: what goes takes the files of what has come.
"$python" -m pip uninstall --quiet --quiet --yes mmcv-lite mmcv
"$python" -m pip install --quiet --disable-pip-version-check --no-deps "$cache"/mmcv-*.whl
