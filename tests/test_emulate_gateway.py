"""An emulated device on its serial line, and the plain C of a bundle on it: the same bits as in Python."""

from dataclasses import replace

import cbor2
import numpy as np
import pytest
from cloud_helpers import INPUTS, brightness, running
from router_helpers import ALL, extremes, made_up, outputs, plain_sources
from tiny_edge import INPUT_SHAPE, pixels, program, sources

from firmware_export.cloud import endpoint_info
from firmware_export.emulate import programs
from firmware_export.emulate.boards import BOARDS
from firmware_export.emulate.build import build
from firmware_export.emulate.errors import EmulationError, EmulationTimeoutError, FaultError
from firmware_export.emulate.gateway import Way, endpoint_ask, gateway_sources, serve_device
from firmware_export.emulate.machine import run, run_image
from firmware_export.payload import PayloadError, decode_payload
from firmware_export.tflm import PLAIN_UNITS
from hybrid.cascade import Stage
from hybrid.device_router import StoredOutputs, integer_router
from hybrid.errors import CloudError
from hybrid.serve import create_app

pytestmark = pytest.mark.skipif(programs.missing() is not None, reason=str(programs.missing()))
M4, M0PLUS = BOARDS["mps2-an386"], BOARDS["mps2-an385-m0plus"]
EVERY_BOARD = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)

ECHO = """
#include "emulate.h"

static uint8_t buffer[4096];

int main(void) {
  for (;;) {
    uint8_t kind = 0;
    const size_t size = emulate_frame_read(&kind, buffer, sizeof(buffer));
    if (kind == 'E') {
      return 3;
    }
    emulate_frame_write(kind, buffer, size <= sizeof(buffer) ? size : 0u);
  }
}
"""


@EVERY_BOARD
def test_echo_over_the_serial_line(board):
    sent = [b"", b"\0", bytes(range(256)), np.random.default_rng(0).bytes(4096), bytes(4097), b"after"]
    received = []

    def talk(uart):
        for body in sent:
            uart.send_frame(b"\xff", body)
            received.append(uart.receive_frame())
        uart.send_frame(b"E")

    assert run({"main.c": ECHO}, board, talk=talk).exit_code == 3
    expected = [body if len(body) <= 4096 else b"" for body in sent]
    assert received == [(b"\xff", body) for body in expected]


def test_host_that_waits_for_nothing():
    image = build({"main.c": ECHO}, M4)
    with pytest.raises(EmulationTimeoutError, match=r"uart: got 0 of 5 bytes within 0\.5 s"):
        run_image(image, talk=lambda uart: uart.receive_frame() and None, limit_s=0.5)


def test_device_that_ends_while_the_host_waits():
    with pytest.raises(EmulationError, match="uart: the line ended after 0 of 2 bytes"):
        run({"main.c": "int main(void) { return 0; }\n"}, M4, talk=lambda uart: uart.receive(2) and None)
    broken = 'int main(void) { __asm__ volatile("udf #0"); return 0; }\n'
    with pytest.raises(FaultError, match="undefined instruction"):
        run({"main.c": broken}, M4, talk=lambda uart: uart.receive(2) and None)


def test_console_tells_why_the_line_ended():
    source = '#include "emulate.h"\nint main(void) { emulate_print("no camera\\n"); return 0; }\n'
    with pytest.raises(EmulationError, match="the line ended after 0 of 2 bytes; it said: no camera"):
        run({"main.c": source}, M4, talk=lambda uart: uart.receive(2) and None)


def test_frame_of_impossible_length_is_refused():
    source = '#include "emulate.h"\nint main(void) { uint8_t f[5] = {1, 255, 0, 0, 0}; emulate_uart_write(f, 5u); }\n'
    with pytest.raises(EmulationError, match="a frame of 4,278,190,080 bytes, allowed 1,048,576"):
        run({"main.c": source}, M4, talk=lambda uart: uart.receive_frame() and None)


JUDGE = """
#include "emulate.h"
#include "hybrid_router.h"

#define FEATURES 16

int main(void) {
  int8_t row[HYBRID_NUM_CLASSES + FEATURES];
  hybrid_status_t status = hybrid_set_threshold(10);
  while (status == HYBRID_OK && emulate_read(row, sizeof(row)) == sizeof(row)) {
    hybrid_example_t example;
    hybrid_result_t result;
    EMULATE_REGION_START(0);
    status = hybrid_judge(0, row, row + HYBRID_NUM_CLASSES, &example, &result);
    EMULATE_REGION_STOP(0);
    const int32_t said[3] = {result.score, result.class_index, (int32_t)result.decision};
    emulate_write(said, sizeof(said));
  }
  return (int)status;
}
"""


@pytest.mark.parametrize("board", [M4, M0PLUS], ids=["M4", "M0+"])
@pytest.mark.parametrize("hidden", [0, 12])
def test_router_on_the_device_gives_the_same_bits(board, hidden):
    stored = [outputs(1000, 10, 16), extremes(10, 16)]
    logits, features = (np.concatenate([getattr(part, name) for part in stored]) for name in ("logits", "features"))
    examples = StoredOutputs(logits=logits, features=features)
    router = integer_router(made_up(ALL, 16, 10, hidden, seed=7), examples)
    code = plain_sources([Stage(flatbuffer=b"", router=router)], [16], 10)
    result = run({**code, "main.c": JUDGE}, board, data=np.hstack([logits, features]).tobytes())
    score, edge_class, decision = np.frombuffer(result.output, "<i4").reshape(-1, 3).T
    assert result.exit_code == 0
    np.testing.assert_array_equal(score, router.score(examples))
    np.testing.assert_array_equal(edge_class, logits.argmax(axis=1))
    np.testing.assert_array_equal(decision, router.score(examples) >= 10)
    assert result.regions[0].entries == len(logits)


STAND_IN = """
#include "emulate.h"
#include "gateway.h"
#include "hybrid_router.h"

/* In place of a net: the first pixels are its logits and features. */
static hybrid_status_t classify(const uint8_t *pixels, hybrid_result_t *result) {
  static hybrid_example_t example;
  int8_t said[7];
  for (int32_t i = 0; i < 7; ++i) {
    said[i] = (int8_t)(pixels[i] - 128);
  }
  return hybrid_judge(0, said, said + HYBRID_NUM_CLASSES, &example, result);
}

int main(void) { return (int)gateway_run(classify); }
"""
EXAMPLES = pixels(12, seed=3)
EXAMPLES[::2, 1:] = 9  # of these the pixels can be packed
INFO = endpoint_info(replace(INPUTS, input_shape=INPUT_SHAPE))
THRESHOLD = 7  # of the bundle's chosen operating point


@pytest.fixture(scope="module")
def device():
    plain = {name: text for name, text in sources().items() if name in PLAIN_UNITS or name.endswith(".h")}
    return build({**plain, **gateway_sources(), "main.c": STAND_IN}, M4)


def predicted():
    """Logits' classes and scores of `EXAMPLES`, as Python's router gives them."""
    said = (EXAMPLES.reshape(12, -1)[:, :7].astype(int) - 128).astype(np.int8)
    router = program().stages[0].router
    return said[:, :3].argmax(axis=1), router.score(StoredOutputs(logits=said[:, :3], features=said[:, 3:]))


def served(device, ask, examples=EXAMPLES):
    outcomes = []
    frames = [example.tobytes() for example in examples]
    result = run_image(device, talk=lambda uart: outcomes.extend(serve_device(uart, ask, frames)))
    return result, outcomes


def test_device_and_cloud_answer_as_python_predicts(device):
    edge_class, score = predicted()
    assert 0 < (score >= THRESHOLD).sum() < 12
    with running(create_app(brightness, INFO)) as base:
        url = f"{base}/v2/models/{INFO.model_name}"
        result, outcomes = served(device, endpoint_ask(url, input_shape=INPUT_SHAPE, num_classes=3))
    cloud_class = brightness(EXAMPLES).argmax(axis=1)
    assert result.exit_code == 0
    assert [outcome.score for outcome in outcomes] == score.tolist()
    assert [outcome.edge_class for outcome in outcomes] == edge_class.tolist()
    assert [outcome.way is Way.KEPT for outcome in outcomes] == (score >= THRESHOLD).tolist()
    final = np.where(score >= THRESHOLD, edge_class, cloud_class)
    assert [outcome.answer for outcome in outcomes] == final.tolist()


def test_what_the_cloud_is_asked(device):
    asked, keys = [], []

    def ask(payload):
        keys.append(list(cbor2.loads(payload))[-1])
        asked.append(decode_payload(payload, "packed", INPUT_SHAPE))
        return 2

    _, outcomes = served(device, ask)
    hard = [(example, outcome) for example, outcome in zip(EXAMPLES, outcomes, strict=True) if outcome.way != Way.KEPT]
    assert len(asked) == len(hard) > 0
    assert set(keys) == {"x", "z"}
    for query, (example, outcome) in zip(asked, hard, strict=True):
        assert query.pixels.tobytes() == example.tobytes()
        assert (query.edge_class, query.score) == (outcome.edge_class, outcome.score)
        assert query.model == bytes.fromhex(program().digest)[:8]
        assert (outcome.way, outcome.answer) == (Way.ANSWERED, 2)


def test_without_the_cloud_the_edges_answer_stands(device):
    def ask(payload):
        raise CloudError("down")

    edge_class, score = predicted()
    _, outcomes = served(device, ask)
    assert [outcome.answer for outcome in outcomes] == edge_class.tolist()
    assert [outcome.way is Way.UNANSWERED for outcome in outcomes] == (score < THRESHOLD).tolist()


def test_device_refuses_what_it_cannot_understand(device):
    with pytest.raises(EmulationError, match="gateway: the device stopped with status 1 "):
        served(device, lambda payload: 0, [EXAMPLES[0][:-1]])
    with pytest.raises(EmulationError, match="gateway: the device stopped with status 9 "):
        served(device, lambda payload: 3)


def test_payload_of_another_shape_is_refused():
    with running(create_app(brightness, INFO)) as base:
        ask = endpoint_ask(
            f"{base}/v2/models/{INFO.model_name}", input_shape=INPUT_SHAPE, num_classes=3, encoding="raw"
        )
        with pytest.raises(PayloadError, match="x: got 63 bytes, expected 64"):
            ask(bytes(63))
