// Zydis (https://zydis.re) driven over whole sections. Its decoder is loaded when first used, so that programs which never look
// into a file's code start without the library.
#ifndef SCIFERRY_CZYDIS_H
#define SCIFERRY_CZYDIS_H
#include <stddef.h>
#include <stdint.h>

/// What a scan notices, in the order of addresses.
enum sciferry_fact_kind {
    /// The first instruction of its run that needs `feature`.
    SCIFERRY_FACT_FEATURE = 1,
    /// A call or jump to `target`, which is outside the known function.
    SCIFERRY_FACT_CALL,
    SCIFERRY_FACT_JUMP,
    /// `target` is the address of a slot that holds the callee's.
    SCIFERRY_FACT_CALL_SLOT,
    SCIFERRY_FACT_JUMP_SLOT,
    /// The address of `target` is taken.
    SCIFERRY_FACT_ADDRESS,
    /// The memory at `target` is read or written.
    SCIFERRY_FACT_MEMORY,
    /// An instruction that asks the CPU what it can.
    SCIFERRY_FACT_QUERY,
};

struct sciferry_fact {
    uint64_t address;
    uint64_t target;
    uint16_t feature;
    uint16_t kind;
    uint32_t length;
};

struct sciferry_facts {
    struct sciferry_fact *items;
    size_t count;
};

/// One instruction as data-flow analysis needs it.
enum sciferry_flow {
    SCIFERRY_FLOW_NEXT,
    SCIFERRY_FLOW_CALL,
    SCIFERRY_FLOW_CALL_INDIRECT,
    SCIFERRY_FLOW_JUMP,
    SCIFERRY_FLOW_JUMP_INDIRECT,
    SCIFERRY_FLOW_BRANCH,
    SCIFERRY_FLOW_RETURN,
    SCIFERRY_FLOW_STOP,
};

enum sciferry_operation {
    SCIFERRY_OPERATION_OTHER,
    /// The first register written gets what is read.
    SCIFERRY_OPERATION_MOVE,
    /// It gets the memory operand's address.
    SCIFERRY_OPERATION_ADDRESS,
    /// It gets `immediate`.
    SCIFERRY_OPERATION_CONSTANT,
    /// It grows by `immediate`.
    SCIFERRY_OPERATION_ADD,
    SCIFERRY_OPERATION_ALIGN,
    SCIFERRY_OPERATION_PUSH,
    SCIFERRY_OPERATION_POP,
    /// It gets what is read if the flags say so.
    SCIFERRY_OPERATION_CHOOSE,
    /// It gets what the CPU tells.
    SCIFERRY_OPERATION_QUERY,
    /// Fills room between instructions.
    SCIFERRY_OPERATION_NOTHING,
};

/// Registers are bits: 0 to 15 general ones in the order of their encoding, 16 the flags, from 32 on vectors and masks.
struct sciferry_instruction {
    uint64_t address;
    /// A branch's target, or the absolute address of a memory operand when `memory` is 1.
    uint64_t target;
    uint64_t reads;
    uint64_t writes;
    int64_t displacement;
    int64_t immediate;
    uint16_t feature;
    uint8_t length;
    uint8_t flow;
    uint8_t operation;
    /// 0 none, 1 at an absolute address, 2 from `base`.
    uint8_t memory;
    /// A general register's number, or 255.
    uint8_t base;
    uint8_t index;
    /// Bit 0 read, bit 1 written.
    uint8_t access;
    /// The first register operand written and read, or 255.
    uint8_t destination;
    uint8_t source;
    uint8_t width;
};

/// Whether the decoder could be loaded.
int sciferry_x86_available(void);

/// The name, as archspec spells it, of a feature; NULL behind the last. 0 is what every x86-64 CPU has.
const char *sciferry_x86_feature(uint16_t feature);

/// Decodes `count` bytes at `bytes` that lie at `address`. `starts` are sorted addresses where functions are known to begin.
/// When `text_end` is not 0, constants from `text_start` to it count as addresses taken.
/// Returns 0 when memory is short. The items are freed by `sciferry_facts_free`.
int sciferry_x86_scan(
    const uint8_t *bytes, size_t count, uint64_t address, const uint64_t *starts, size_t start_count, uint64_t text_start,
    uint64_t text_end, struct sciferry_facts *facts);

void sciferry_facts_free(struct sciferry_facts *facts);

/// Decodes at most `limit` instructions into `out`; returns how many.
size_t sciferry_x86_decode(const uint8_t *bytes, size_t count, uint64_t address, struct sciferry_instruction *out, size_t limit);
#endif
