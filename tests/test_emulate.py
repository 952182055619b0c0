"""Programs on emulated boards: counts, stack, sizes and faults, by pencil."""

import pytest

from firmware_export.emulate import counter, programs
from firmware_export.emulate.boards import BOARDS, board_named
from firmware_export.emulate.build import build
from firmware_export.emulate.errors import EmulationError, EmulationTimeoutError, FaultError, ToolchainError
from firmware_export.emulate.machine import run, run_image
from firmware_export.emulate.report import Region
from hybrid.errors import BudgetError, SpecError

pytestmark = pytest.mark.skipif(programs.missing() is not None, reason=str(programs.missing()))
M4, M0PLUS = BOARDS["mps2-an386"], BOARDS["mps2-an385-m0plus"]
EVERY_BOARD = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
EMPTY = {"main.c": "int main(void) { return 0; }\n"}

ALL_KINDS = """
#include <string.h>
#include "emulate.h"
#include "part/twice.h"

static int32_t numbers[4] = {1, -2, 3, -4};
static int32_t zeros[4];
static volatile float three = 3.0f;

int main(void) {
  uint8_t input[8];
  const size_t size = emulate_read(input, sizeof(input));
  for (size_t i = 0; i < size; ++i) {
    input[i] = twice(input[i]);
  }
  emulate_write(input, size);
  zeros[1] = (int32_t)(three / 2.0f * 100.0f);
  emulate_write(zeros, sizeof(zeros));
  memcpy(zeros, numbers, sizeof(zeros));
  zeros[3] = zeros[3] * 1000 / (int32_t)size;
  emulate_write(zeros, sizeof(zeros));
  emulate_print("done: ");
  emulate_print("yes\\n");
  return -5;
}
"""
TWICE_H = "#include <stdint.h>\nuint8_t twice(uint8_t value);\n"
TWICE_C = '#include "twice.h"\nuint8_t twice(uint8_t value) { return (uint8_t)(2u * value); }\n'


@EVERY_BOARD
def test_every_board_runs_c(board):
    sources = {"main.c": ALL_KINDS, "part/twice.h": TWICE_H, "part/twice.c": TWICE_C}
    result = run(sources, board, data=b"\0\x0a\x0d\x7f\xff")
    doubled = b"\0\x14\x1a\xfe\xfe"
    words = [0, 150, 0, 0, 1, -2, 3, -800]  # 3 / 2 * 100; -4 * 1000 / 5
    assert result.output == doubled + b"".join(word.to_bytes(4, "little", signed=True) for word in words)
    assert (result.exit_code, result.console) == (-5, "done: yes\n")


@pytest.mark.skipif(counter.plugin() is None, reason="QEMU takes no plugin here, or there is no gcc")
@EVERY_BOARD
def test_no_mark_is_lost_wherever_it_lies(board):
    """A mark, a nop and a mark are 10 bytes: 512 in a row begin at each even place of QEMU's pages of 1 KiB."""
    body = '  EMULATE_REGION_START(1);\n  __asm__ volatile("nop");\n  EMULATE_REGION_STOP(1);\n' * 512
    result = run(
        {"main.c": f'#include "emulate.h"\nint main(void) {{\n{body}  return 0;\n}}\n'}, board, counter="plugin"
    )
    assert result.regions == {1: Region(instructions=512, entries=512)}


NOPS = """
#include "emulate.h"

static void hundred(void) { __asm__ volatile(".rept 100\\n nop\\n .endr"); }

int main(void) {
  EMULATE_REGION_START(0);
  __asm__ volatile(".rept 1000\\n nop\\n .endr");
  EMULATE_REGION_STOP(0);
  for (int i = 0; i < 7; ++i) {
    EMULATE_REGION_START(255);
    hundred();
    EMULATE_REGION_START(3);
    __asm__ volatile("nop");
    EMULATE_REGION_STOP(3);
    EMULATE_REGION_STOP(255);
  }
  return 0;
}
"""


@pytest.mark.skipif(counter.plugin() is None, reason="QEMU takes no plugin here, or there is no gcc")
@EVERY_BOARD
def test_nops_are_counted_one_by_one(board):
    image = build({"main.c": NOPS}, board, counter="plugin")
    results = [run_image(image) for _ in range(2)]
    expected = {0: Region(1000, 1), 3: Region(7, 7), 255: Region(707, 7)}
    assert [result.regions for result in results] == [expected, expected]


LAYERS = """
#ifndef LAYER_START
#define LAYER_START(number)
#define LAYER_STOP(number)
#endif

int main(void) {
  LAYER_START(1);
  __asm__ volatile("nop");
  LAYER_STOP(1);
  LAYER_START(2);
  __asm__ volatile("nop\\n nop");
  LAYER_STOP(2);
  return 0;
}
"""


@pytest.mark.skipif(counter.plugin() is None, reason="QEMU takes no plugin here, or there is no gcc")
def test_code_that_knows_nothing_of_the_emulator_can_be_marked():
    marks = ("-DLAYER_START(n)=EMULATE_REGION_START(n)", "-DLAYER_STOP(n)=EMULATE_REGION_STOP(n)")
    marked = run({"main.c": LAYERS}, M4, flags=("-O2", "-include", "emulate.h", *marks), counter="plugin")
    assert marked.regions == {1: Region(1, 1), 2: Region(2, 1)}
    assert run({"main.c": LAYERS}, M4).regions == {}


WORK = """
#include "emulate.h"

static uint32_t mixed(uint32_t value, uint32_t rounds) {
  for (uint32_t i = 0; i < rounds; ++i) {
    value = value * 1664525u + (value >> 7) + 1013904223u;
  }
  return value;
}

int main(void) {
  uint8_t input[1];
  uint32_t value = (uint32_t)emulate_read(input, 1u) + input[0];
  EMULATE_REGION_START(1);
  value = mixed(value, 100000u);
  __asm__ volatile("" : "+r"(value));
  EMULATE_REGION_STOP(1);
  emulate_write(&value, sizeof(value));
  return 0;
}
"""


@pytest.mark.skipif(counter.plugin() is None, reason="QEMU takes no plugin here, or there is no gcc")
@EVERY_BOARD
def test_timer_agrees_with_plugin(board):
    by_plugin, by_timer = (run({"main.c": WORK}, board, data=b"\x05", counter=kind) for kind in ("plugin", "timer"))
    assert (by_plugin.counter, by_timer.counter) == ("plugin", "timer")
    assert by_plugin.output == by_timer.output
    assert by_plugin.regions[1].instructions > 400_000
    assert abs(by_timer.regions[1].instructions - by_plugin.regions[1].instructions) <= 5


def test_region_outside_its_range_does_not_compile():
    source = '#include "emulate.h"\nint main(void) { EMULATE_REGION_START(256); return 0; }\n'
    with pytest.raises(EmulationError, match="allowed 0 to 255"):
        build({"main.c": source}, M4, counter="plugin")


DEEP = """
int main(void);
void deep(void);

__attribute__((naked)) void deep(void) {
  __asm__ volatile("push {r4, lr}\\n sub sp, #496\\n movs r0, #1\\n str r0, [sp]\\n add sp, #496\\n pop {r4, pc}");
}

__attribute__((naked)) int main(void) {
  __asm__ volatile("push {r4, r5, r6, lr}\\n bl deep\\n movs r0, #0\\n pop {r4, r5, r6, pc}");
}
"""


@EVERY_BOARD
@pytest.mark.parametrize("kind", ["plugin", "timer"])
def test_stack_of_known_frames(board, kind):
    if kind == "plugin" and counter.plugin() is None:
        pytest.skip("QEMU takes no plugin here, or there is no gcc")
    result = run({"main.c": DEEP}, board, stack_bytes=1024, counter=kind)
    assert result.stack_bytes == 16 + 8 + 496


RECURSION = """
int deeper(volatile int *left);

int deeper(volatile int *left) {
  volatile int room[64];
  room[0] = *left;
  *left -= 1;
  return *left == 0 ? 0 : deeper(left) + room[0];
}

int main(void) {
  volatile int left = %d;
  return deeper(&left) > 0 ? 3 : 4;
}
"""


@EVERY_BOARD
def test_overflow_of_the_stack_is_told(board):
    """Frames of more than 256 bytes: three fit 2 KiB, ten do not."""
    assert run({"main.c": RECURSION % 3}, board, stack_bytes=2048).exit_code == 3
    with pytest.raises(FaultError, match=rf"^{board.name}: fault: stack overflow; raise stack_bytes"):
        run({"main.c": RECURSION % 10}, board, stack_bytes=2048)


UNDEFINED = """
void broken(void);
void broken(void) {
  __asm__ volatile("ldr r3, =0x12345678\\n udf #0\\n .ltorg" ::: "r3");
}
int main(void) { broken(); return 0; }
"""


@EVERY_BOARD
def test_fault_with_its_registers(board):
    with pytest.raises(FaultError, match=r"undefined instruction, in broken at main\.c:.*r3=12345678") as caught:
        run({"main.c": UNDEFINED}, board)
    registers = caught.value.registers
    assert registers["r3"] == 0x12345678
    assert registers["cfsr"] == 1 << 16
    assert 0 <= registers["pc"] - board.flash.origin < 16_384


def test_fault_with_its_address():
    source = "int main(void) { return *(volatile int *)0x90000000u; }\n"
    with pytest.raises(FaultError, match="data at an address where nothing is, address 0x90000000, in main"):
        run({"main.c": source}, M4)


@pytest.mark.parametrize(("board", "faults"), [(M0PLUS, True), (M4, False)], ids=["M0+", "M4"])
def test_unaligned_access_is_refused_where_the_core_cannot(board, faults):
    access = '__asm__ volatile("ldr r0, [%0]" ::"r"((const char *)words + 1) : "r0");'
    sources = {"main.c": f"int main(void) {{ volatile unsigned words[2] = {{1, 2}}; {access} return 6; }}\n"}
    if not faults:
        assert run(sources, board).exit_code == 6
        return
    with pytest.raises(FaultError, match="unaligned access"):
        run(sources, board)


def test_code_for_a_small_core_has_no_instructions_of_a_larger():
    source = (
        '#if defined(__ARM_FEATURE_DSP) || defined(__ARM_FP) || !defined(__ARM_ARCH_6M__)\n#error "larger"\n#endif\n'
    )
    assert run({"main.c": source + EMPTY["main.c"]}, M0PLUS).exit_code == 0
    with pytest.raises(EmulationError, match=r"main\.c: does not compile.*larger"):
        build({"main.c": source + EMPTY["main.c"]}, M4)


def test_program_without_end():
    with pytest.raises(EmulationTimeoutError, match=r"mps2-an386: the program still ran after 1 s.*it said: busy"):
        run(
            {"main.c": '#include "emulate.h"\nint main(void) { emulate_print("busy\\n"); for (;;) {} }\n'},
            M4,
            limit_s=1,
        )


def test_output_without_end_is_stopped():
    source = """
#include "emulate.h"
static uint8_t zeros[65536];
int main(void) {
  for (;;) {
    emulate_write(zeros, sizeof(zeros));
  }
}
"""
    with pytest.raises(EmulationError, match="ended before the program did: emulate: the output cannot be written"):
        run({"main.c": source}, M4)


def test_emulation_that_ends_before_the_program():
    source = (
        'int main(void) { register int r0 __asm__("r0") = 0x18; __asm__ volatile("bkpt 0xab" ::"r"(r0)); return 0; }'
    )
    with pytest.raises(EmulationError, match="the emulation ended before the program did"):
        run({"main.c": source + "\n"}, M4)


def test_fault_that_cannot_be_handled():
    """The vectors moved to where there are only zeros: the core locks up."""
    moved = '*(volatile unsigned *)0xE000ED08u = 0x20300000u; __asm__ volatile("dsb\\n isb\\n udf #0");'
    with pytest.raises(EmulationError, match="ended before the program did: qemu: fatal: Lockup"):
        run({"main.c": f"int main(void) {{ {moved} return 0; }}\n"}, M4)


def test_exit_of_the_c_library():
    assert run({"main.c": "#include <stdlib.h>\nint main(void) { exit(-9); }\n"}, M4).exit_code == -9


SIZED = """
#include "emulate.h"

static const int8_t table[1000] = {1, 2, 3};
static int32_t start[5] = {1, 2, 3, 4, 5};
static uint8_t room[300];

int main(int argc, char **argv) {
  const volatile int8_t *const seen = table;
  volatile int32_t *const kept = start;
  volatile uint8_t *const used = room;
  kept[argc & 3] = argv == NULL;
  used[argc & 7] = 1u;
  return seen[argc & 7] + used[0];
}
"""


def test_sections_are_the_programs_own():
    sections = run({"main.c": SIZED}, M4).sections
    assert (sections.rodata, sections.data, sections.bss) == (1000, 20, 300)
    assert sections.flash_bytes == sections.text + 1020
    assert sections.static_ram_bytes == 320
    assert 0 < sections.text < 100
    assert build(EMPTY, M4).sections.text == 4  # movs r0, #0; bx lr


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("static volatile char big[5000000];", r"ram_bytes: needs 5,01\d,\d{3}, device mps2-an386 has 4,194,304; make"),
        ("static const volatile char big[5000000] = {1};", r"flash_bytes: needs 5,00\d,\d{3}, device mps2-an386 has 4"),
    ],
)
def test_image_larger_than_the_board(line, complaint):
    with pytest.raises(BudgetError, match=complaint):
        build({"main.c": f"{line}\nint main(void) {{ return big[7]; }}\n"}, M4)


@pytest.mark.parametrize(
    ("sources", "complaint"),
    [
        ({"main.c": "int main(void) { return x; }"}, r"main\.c: does not compile: .*'x' undeclared"),
        ({"main.c": "int main(void) { float y = 1.5; return (int)(y * 2.0); }"}, "double-promotion"),
        ({"other.c": "int f(void);\nint f(void) { return 1; }"}, "does not link: .*undefined reference to `main'"),
        (
            {"main.c": '#include <stdio.h>\nint main(void) { return puts("x"); }'},
            "does not link: it calls malloc, printf",
        ),
        ({"main.h": ""}, r"got \['main.h'\], expected one or more \.c files"),
        ({"../main.c": ""}, "expected a relative path"),
        ({"runtime_io.c": ""}, "that does not start with runtime_"),
    ],
)
def test_sources_that_make_no_program(sources, complaint):
    with pytest.raises(EmulationError, match=complaint):
        build(sources, M4)


def test_unknown_board():
    with pytest.raises(SpecError, match="unknown 'mps2-an368'; did you mean mps2-an386"):
        board_named("mps2-an368")


def test_missing_programs_are_named_with_their_packages(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ToolchainError, match="arm-none-eabi-gcc: not found; install Debian's gcc-arm-none-eabi"):
        build(EMPTY, M4, counter="timer")
    assert programs.missing() is not None
    assert counter.plugin.__wrapped__() is None
