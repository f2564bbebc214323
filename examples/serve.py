"""Serve an exported detector over HTTP, without this project and without PyTorch.

    pip install -r examples/serve_requirements.txt
    SSD_MODEL=detector.onnx uvicorn serve:app --app-dir examples
    curl -F image=@a.jpg http://127.0.0.1:8000/detect

Install into an environment of its own. The model is what `predict.py --mode export` writes. For
calls from other machines add --host 0.0.0.0, behind a proxy that knows who may call; --port chooses
another port, and /docs describes the calls.
"""

import json
import os
from typing import Annotated

import onnxruntime
from fastapi import FastAPI, File, HTTPException
from onnx_only import decode

MAX_BYTES = 20_000_000  # of an upload
model = os.environ.get("SSD_MODEL", "")
if not model.endswith(".onnx"):
    raise SystemExit(f"SSD_MODEL={model}: name a file of predict.py --mode export")
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
metadata = {name: json.loads(value) for name, value
            in session.get_modelmeta().custom_metadata_map.items()}
names, spec = metadata["class_names"], metadata["spec"]
if metadata["outputs"] != "detections" or spec["tile"] or spec["letterbox"]:
    raise SystemExit(f'{model}: needs outputs "detections", and neither tiles nor letterbox')
app = FastAPI(title="SSD")


@app.get("/health")
def health() -> dict:
    """Tell that the model is loaded, what it detects, and above which score."""
    return {"status": "ok", "model": model, "classes": names,
            "confidence": metadata["thresholds"]["confidence"], "trained": metadata["about"]}


@app.post("/detect")
def detect(image: Annotated[bytes, File()]) -> list[dict]:
    """Return the objects in an uploaded image, best first, with boxes xyxy in its pixels."""
    if len(image) > MAX_BYTES:
        raise HTTPException(413, f"more than {MAX_BYTES} bytes")
    try:
        images, size = decode(image, spec)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None
    results = session.run(["boxes", "scores", "labels"], {"images": images})  # of "detections"
    return [{"class": names[label], "score": round(float(score), 4),
             "box": (box * [*size, *size]).round(1).tolist()}
            for box, score, label in zip(*results)]
