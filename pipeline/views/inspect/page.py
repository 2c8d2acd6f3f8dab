"""The interactive page of an inspection: its point cloud, cut live in the browser, in one file that needs no network.

N = Gh·Gw patches · E edges of a k-NN graph · Gh, Gw patch grid
"""

import base64
import html
import importlib.resources
import json
import math
from dataclasses import asdict
from string import Template
from typing import Any

import numpy as np

from pipeline.methods.cuts.proposals import cut_thresholds
from pipeline.views.inspect.inspection import InspectedProposal, Inspection
from pipeline.views.inspect.words import (
    cut_sentence,
    drop_sentence,
    group_words,
    image_name,
    label,
    score_sentence,
    side_words,
    stop_sentence,
    terminal_words,
)
from pipeline.views.page_policy import content_policy
from stages.score import factors


def page_html(inspection: Inspection) -> str:
    """The page as HTML text. ValueError for recipes without LocalCut: they have no graph to show.

    The image's name is untrusted: it enters as escaped text in the title and as JSON without "<" in the data.
    """
    folder = importlib.resources.files("pipeline.views.inspect") / "page_files"
    style, script, page = ((folder / name).read_text("utf-8") for name in ("cloud.css", "cloud.js", "page.html"))
    data = json.dumps(page_data(inspection)).replace("<", "\\u003c")
    # one pass: nothing that is put in is looked at again
    return Template(page).substitute(
        policy=content_policy(style, script),
        name=html.escape(image_name(inspection)),
        style=style,
        script=script,
        data=data,
    )


def page_data(inspection: Inspection) -> dict[str, Any]:
    """What the page shows, as JSON values; arrays as {"type", "data"}: element type and base64 of little-endian bytes.

    Edges are sorted by length, so that a threshold is a prefix of them.
    """
    recipe = inspection.recipe
    cut = recipe.local_cut
    if cut is None:
        raise ValueError(f"recipe {recipe.name} has no LocalCut: there is no cut to show in 3D")
    return {
        "name": image_name(inspection),
        "grid": list(inspection.grid),
        "stop": stop_sentence(inspection),
        "k": cut.k,
        "tau": cut.tau_on(inspection.grid),
        "ladder": cut_thresholds(recipe, inspection.grid).tolist() if recipe.spatial_confidence else [],
        "group": group_words(inspection),
        "terminals": terminal_words(inspection),
        "sides": side_words(inspection),
        "score": score_sentence(inspection),
        "outside": cut.outside,
        "push": cut.outside_depth * cut.depth_scale if cut.outside == "push" else 0.0,
        "points": _packed(inspection.points_N3, "float32"),
        "photo": _packed(inspection.photo_N3, "uint8"),
        "instances": _packed(inspection.instances_N3, "uint8"),
        "proposals": [_proposal(inspected, inspection) for inspected in inspection.proposals],
    }


def _proposal(inspected: InspectedProposal, inspection: Inspection) -> dict[str, Any]:
    proposal, graph = inspected.proposal, inspected.graph
    if graph is None:
        raise ValueError("a proposal without a k-NN graph: this inspection was not made by LocalCut")
    order_E = np.argsort(graph.lengths_E, kind="stable")
    counting = set(factors(inspection.recipe.score)) - inspected.unknown_parts(inspection.recipe)
    confidence = np.zeros(proposal.mask.shape) if inspected.confidence is None else inspected.confidence
    return {
        "label": label(inspected, inspection),
        "how": cut_sentence(inspected, inspection),
        # what is not in the recipe's score or was not measured is left out
        "parts": {name: value for name, value in asdict(inspected.parts).items() if name in counting},
        "tau": proposal.tau if math.isfinite(proposal.tau) else None,
        "dropped": drop_sentence(inspected, inspection),
        "score": None if inspected.instance is None else inspected.instance.score,
        "eigenvalue": proposal.eigenvalue,
        "gap": proposal.gap,
        "source": proposal.source,
        "sink": proposal.sink,
        "eigenvector": _packed(proposal.eigenvector, "float32"),
        "outside": _packed(~proposal.was_cut, "uint8"),
        "group": _packed(proposal.group, "uint8"),
        "confidence": _packed(confidence * 255, "uint8"),
        "edges": _packed(graph.edges_E2[order_E], "uint16" if graph.n <= 1 << 16 else "uint32"),
        # in double precision: at a threshold, a rounded length would be on the wrong side
        "lengths": _packed(graph.lengths_E[order_E], "float64"),
    }


def _packed(array: np.ndarray, kind: str) -> dict[str, str]:
    values = np.rint(array) if kind.startswith("uint") else array
    return {"type": kind, "data": base64.b64encode(values.astype(np.dtype(kind).newbyteorder("<")).tobytes()).decode()}
