"""The object interface of TFLite's flatbuffer schema, from whichever runtime brings it; no TensorFlow is loaded."""

from types import ModuleType


def schema() -> ModuleType:
    """Give the schema's classes: tflite-micro's, and where that is not installed ai-edge-litert's."""
    try:
        from tflite_micro.tensorflow.lite.micro.python import schema_py_generated
    except ModuleNotFoundError:
        from ai_edge_litert import schema_py_generated
    return schema_py_generated
