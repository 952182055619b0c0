"""Which models the compiled code answers otherwise than TFLite Micro does."""

import numpy as np
from engine_models import RefusedError, random_examples, tflm_many

from firmware_export.engine.compile import compile_model
from firmware_export.engine.host import built

EXAMPLES = 4


def judged(models):
    """Flatbuffers that TFLite Micro accepts, with examples and its answers."""
    for number, model in enumerate(models):
        examples = random_examples(model, np.random.default_rng(number), EXAMPLES)
        try:
            yield model, examples, tflm_many(model, examples)
        except RefusedError:
            continue


def wrong(models, *, weights="int16", cpu="cortex-m4", sanitize=False, optimise="-O1", defines=()):
    """Numbers of the models whose compiled code gives another answer than TFLite Micro."""
    cases = list(judged(models))
    assert len(cases) > 0.8 * len(models)
    compiled = [
        compile_model(model, prefix=f"m{number}", weights=weights, cpu=cpu, kernels="kernels")
        for number, (model, _, _) in enumerate(cases)
    ]
    with built(compiled, sanitize=sanitize, optimise=optimise, defines=defines) as program:
        answers = [program.run(examples, number) for number, (_, examples, _) in enumerate(cases)]
    return [
        number
        for number, ((_, _, expected), got) in enumerate(zip(cases, answers, strict=True))
        if not all(np.array_equal(a, b) for e, g in zip(expected, got, strict=True) for a, b in zip(e, g, strict=True))
    ]
