"""Serve an exported detector over HTTP, without this project and without PyTorch.

    pip install -r examples/serve_requirements.txt
    SSD_MODEL=detector.onnx uvicorn serve:app --app-dir examples
    curl -F image=@a.jpg http://127.0.0.1:8000/detect
"""

import json
import os
from typing import Annotated

import onnxruntime
from fastapi import FastAPI, File, HTTPException
from onnx_only import decode

MAX_BYTES = 20_000_000  # of an upload
session = onnxruntime.InferenceSession(os.environ["SSD_MODEL"], providers=["CPUExecutionProvider"])
metadata = session.get_modelmeta().custom_metadata_map
names, spec = json.loads(metadata["class_names"]), json.loads(metadata["spec"])
app = FastAPI(title="SSD")


@app.get("/health")
def health() -> dict:
    """Tell that the model is loaded, and what it detects."""
    return {"status": "ok", "model": os.environ["SSD_MODEL"], "classes": names}


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
