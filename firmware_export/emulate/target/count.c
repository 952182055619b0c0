/* A plugin of QEMU that counts instructions between marks (see emulate.h), exactly: "region entries instructions" for
 * each region, in the file named by the argument out=.
 *
 * Debian does not package qemu-plugin.h, so what is used of version 1 of its interface is declared here. A QEMU with
 * another version refuses the plugin.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*tb_cb_t)(qemu_plugin_id_t id, struct qemu_plugin_tb *tb);
typedef void (*udata_cb_t)(unsigned int cpu, void *userdata);
typedef void (*exit_cb_t)(qemu_plugin_id_t id, void *userdata);
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };
enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id, tb_cb_t callback);
void qemu_plugin_register_atexit_cb(qemu_plugin_id_t id, exit_cb_t callback, void *userdata);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t index);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn, udata_cb_t callback,
                                            enum qemu_plugin_cb_flags flags, void *userdata);
void qemu_plugin_register_vcpu_insn_exec_inline(struct qemu_plugin_insn *insn, enum qemu_plugin_op op, void *pointer,
                                                uint64_t immediate);

#define REGIONS 256u

typedef struct {
  uint64_t entries;
  uint64_t instructions;
  uint64_t started;
} region_t;

EXPORT int qemu_plugin_version = 1;
static region_t regions[REGIONS];
static uint64_t executed;
static char path[4096];

static void start(unsigned int cpu, void *userdata) {
  (void)cpu;
  region_t *const region = userdata;
  region->entries += 1u;
  region->started = executed;
}

static void stop(unsigned int cpu, void *userdata) {
  (void)cpu;
  region_t *const region = userdata;
  region->instructions += executed - region->started;
}

/* The word of a 32-bit Thumb instruction, first halfword above; 0 or no mark for others. At the end of a page QEMU looks
 * ahead, and what it sees there counts as a part of the instruction before. */
static uint32_t word_of(const struct qemu_plugin_insn *insn) {
  uint16_t halves[2] = {0, 0};
  if (qemu_plugin_insn_size(insn) >= sizeof(halves)) {
    memcpy(halves, qemu_plugin_insn_data(insn), sizeof(halves));
  }
  return ((uint32_t)halves[0] << 16) | halves[1];
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *tb) {
  (void)id;
  const size_t count = qemu_plugin_tb_n_insns(tb);
  for (size_t i = 0; i < count; ++i) {
    struct qemu_plugin_insn *const insn = qemu_plugin_tb_get_insn(tb, i);
    const uint32_t word = word_of(insn);
    region_t *const region = &regions[word % REGIONS];
    if (word / REGIONS == 0xF81FF0u) {
      qemu_plugin_register_vcpu_insn_exec_cb(insn, start, QEMU_PLUGIN_CB_NO_REGS, region);
    } else if (word / REGIONS == 0xF89FF0u) {
      qemu_plugin_register_vcpu_insn_exec_cb(insn, stop, QEMU_PLUGIN_CB_NO_REGS, region);
    } else {
      qemu_plugin_register_vcpu_insn_exec_inline(insn, QEMU_PLUGIN_INLINE_ADD_U64, &executed, 1u);
    }
  }
}

static void finished(qemu_plugin_id_t id, void *userdata) {
  (void)id;
  (void)userdata;
  FILE *const file = fopen(path, "w");
  for (size_t i = 0; file != NULL && i < REGIONS; ++i) {
    if (regions[i].entries > 0u) {
      fprintf(file, "%zu %" PRIu64 " %" PRIu64 "\n", i, regions[i].entries, regions[i].instructions);
    }
  }
  if (file != NULL) {
    fclose(file);
  }
}

EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const void *info, int argc, char **argv) {
  (void)info;
  if (argc != 1 || strncmp(argv[0], "out=", 4) != 0 || strlen(argv[0]) >= sizeof(path)) {
    fprintf(stderr, "count: expected out=FILE\n");
    return 1;
  }
  strcpy(path, argv[0] + 4);
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_atexit_cb(id, finished, NULL);
  return 0;
}
