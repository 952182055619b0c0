"""A hybrid edge/cloud learner for microcontrollers: `hybrid.pipeline.run` is the whole story."""
