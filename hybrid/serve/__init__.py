"""The cloud endpoint: a bundle's SavedModel behind the Open Inference Protocol and the device's own query."""

from hybrid.serve.app import create_app
from hybrid.serve.model import Model, load_model
from hybrid.serve.server import serve

__all__ = ["Model", "create_app", "load_model", "serve"]
