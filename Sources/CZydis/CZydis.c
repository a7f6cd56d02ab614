#include "CZydis.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define ZYDIS_STATIC_BUILD
#include <Zydis/Zydis.h>

static struct {
    int ready;
    ZydisDecoder decoder;
    ZyanStatus (*init)(ZydisDecoder *, ZydisMachineMode, ZydisStackWidth);
    ZyanStatus (*instruction)(const ZydisDecoder *, ZydisDecoderContext *, const void *, ZyanUSize, ZydisDecodedInstruction *);
    ZyanStatus (*full)(const ZydisDecoder *, const void *, ZyanUSize, ZydisDecodedInstruction *, ZydisDecodedOperand *);
    ZydisRegister (*enclosing)(ZydisMachineMode, ZydisRegister);
    ZyanI8 (*number)(ZydisRegister);
    ZydisRegisterClass (*class)(ZydisRegister);
    uint16_t features[ZYDIS_ISA_SET_MAX_VALUE + 1];
} zydis;

// Names as archspec and /proc/cpuinfo have them. What is not here every x86-64 CPU has, or only the kernel uses.
static const struct {
    ZydisISASet set;
    const char *feature;
} table[] = {
    {ZYDIS_ISA_SET_SSE3, "sse3"}, {ZYDIS_ISA_SET_SSE3X87, "sse3"}, {ZYDIS_ISA_SET_SSSE3, "ssse3"},
    {ZYDIS_ISA_SET_SSSE3MMX, "ssse3"}, {ZYDIS_ISA_SET_SSE4, "sse4_1"}, {ZYDIS_ISA_SET_SSE42, "sse4_2"},
    {ZYDIS_ISA_SET_SSE4A, "sse4a"}, {ZYDIS_ISA_SET_POPCNT, "popcnt"}, {ZYDIS_ISA_SET_CMPXCHG16B, "cx16"},
    {ZYDIS_ISA_SET_LAHF, "lahf_lm"}, {ZYDIS_ISA_SET_AES, "aes"}, {ZYDIS_ISA_SET_AVXAES, "aes"},
    {ZYDIS_ISA_SET_PCLMULQDQ, "pclmulqdq"}, {ZYDIS_ISA_SET_AVX, "avx"}, {ZYDIS_ISA_SET_AVX2, "avx2"},
    {ZYDIS_ISA_SET_AVX2GATHER, "avx2"}, {ZYDIS_ISA_SET_F16C, "f16c"}, {ZYDIS_ISA_SET_FMA, "fma"}, {ZYDIS_ISA_SET_FMA4, "fma4"},
    {ZYDIS_ISA_SET_XOP, "xop"}, {ZYDIS_ISA_SET_TBM, "tbm"}, {ZYDIS_ISA_SET_LWP, "lwp"}, {ZYDIS_ISA_SET_BMI1, "bmi1"},
    {ZYDIS_ISA_SET_BMI2, "bmi2"}, {ZYDIS_ISA_SET_LZCNT, "abm"}, {ZYDIS_ISA_SET_MOVBE, "movbe"}, {ZYDIS_ISA_SET_ADOX_ADCX, "adx"},
    {ZYDIS_ISA_SET_AMD3DNOW, "3dnow"}, {ZYDIS_ISA_SET_RDRAND, "rdrand"}, {ZYDIS_ISA_SET_RDSEED, "rdseed"},
    {ZYDIS_ISA_SET_RDTSCP, "rdtscp"}, {ZYDIS_ISA_SET_RDPID, "rdpid"}, {ZYDIS_ISA_SET_RDWRFSGS, "fsgsbase"},
    {ZYDIS_ISA_SET_RTM, "rtm"}, {ZYDIS_ISA_SET_SHA, "sha_ni"}, {ZYDIS_ISA_SET_GFNI, "gfni"}, {ZYDIS_ISA_SET_AVX_GFNI, "gfni"},
    {ZYDIS_ISA_SET_AVX512_GFNI_128, "gfni"}, {ZYDIS_ISA_SET_AVX512_GFNI_256, "gfni"}, {ZYDIS_ISA_SET_AVX512_GFNI_512, "gfni"},
    {ZYDIS_ISA_SET_VAES, "vaes"}, {ZYDIS_ISA_SET_AVX512_VAES_128, "vaes"}, {ZYDIS_ISA_SET_AVX512_VAES_256, "vaes"},
    {ZYDIS_ISA_SET_AVX512_VAES_512, "vaes"}, {ZYDIS_ISA_SET_VPCLMULQDQ, "vpclmulqdq"},
    {ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_128, "vpclmulqdq"}, {ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_256, "vpclmulqdq"},
    {ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_512, "vpclmulqdq"}, {ZYDIS_ISA_SET_AVX_VNNI, "avx_vnni"},
    {ZYDIS_ISA_SET_AMX_TILE, "amx_tile"}, {ZYDIS_ISA_SET_AMX_INT8, "amx_int8"}, {ZYDIS_ISA_SET_AMX_BF16, "amx_bf16"},
    {ZYDIS_ISA_SET_AVX512F_128, "avx512vl"}, {ZYDIS_ISA_SET_AVX512F_256, "avx512vl"}, {ZYDIS_ISA_SET_AVX512F_128N, "avx512f"},
    {ZYDIS_ISA_SET_AVX512F_512, "avx512f"}, {ZYDIS_ISA_SET_AVX512F_KOP, "avx512f"}, {ZYDIS_ISA_SET_AVX512F_SCALAR, "avx512f"},
    {ZYDIS_ISA_SET_AVX512BW_128, "avx512bw"}, {ZYDIS_ISA_SET_AVX512BW_128N, "avx512bw"}, {ZYDIS_ISA_SET_AVX512BW_256, "avx512bw"},
    {ZYDIS_ISA_SET_AVX512BW_512, "avx512bw"}, {ZYDIS_ISA_SET_AVX512BW_KOP, "avx512bw"}, {ZYDIS_ISA_SET_AVX512CD_128, "avx512cd"},
    {ZYDIS_ISA_SET_AVX512CD_256, "avx512cd"}, {ZYDIS_ISA_SET_AVX512CD_512, "avx512cd"}, {ZYDIS_ISA_SET_AVX512DQ_128, "avx512dq"},
    {ZYDIS_ISA_SET_AVX512DQ_128N, "avx512dq"}, {ZYDIS_ISA_SET_AVX512DQ_256, "avx512dq"}, {ZYDIS_ISA_SET_AVX512DQ_512, "avx512dq"},
    {ZYDIS_ISA_SET_AVX512DQ_KOP, "avx512dq"}, {ZYDIS_ISA_SET_AVX512DQ_SCALAR, "avx512dq"}, {ZYDIS_ISA_SET_AVX512ER_512, "avx512er"},
    {ZYDIS_ISA_SET_AVX512ER_SCALAR, "avx512er"}, {ZYDIS_ISA_SET_AVX512PF_512, "avx512pf"},
    {ZYDIS_ISA_SET_AVX512_4FMAPS_512, "avx512_4fmaps"}, {ZYDIS_ISA_SET_AVX512_4FMAPS_SCALAR, "avx512_4fmaps"},
    {ZYDIS_ISA_SET_AVX512_4VNNIW_512, "avx512_4vnniw"}, {ZYDIS_ISA_SET_AVX512_BF16_128, "avx512_bf16"},
    {ZYDIS_ISA_SET_AVX512_BF16_256, "avx512_bf16"}, {ZYDIS_ISA_SET_AVX512_BF16_512, "avx512_bf16"},
    {ZYDIS_ISA_SET_AVX512_BITALG_128, "avx512_bitalg"}, {ZYDIS_ISA_SET_AVX512_BITALG_256, "avx512_bitalg"},
    {ZYDIS_ISA_SET_AVX512_BITALG_512, "avx512_bitalg"}, {ZYDIS_ISA_SET_AVX512_FP16_128, "avx512_fp16"},
    {ZYDIS_ISA_SET_AVX512_FP16_128N, "avx512_fp16"}, {ZYDIS_ISA_SET_AVX512_FP16_256, "avx512_fp16"},
    {ZYDIS_ISA_SET_AVX512_FP16_512, "avx512_fp16"}, {ZYDIS_ISA_SET_AVX512_FP16_SCALAR, "avx512_fp16"},
    {ZYDIS_ISA_SET_AVX512_IFMA_128, "avx512ifma"}, {ZYDIS_ISA_SET_AVX512_IFMA_256, "avx512ifma"},
    {ZYDIS_ISA_SET_AVX512_IFMA_512, "avx512ifma"}, {ZYDIS_ISA_SET_AVX512_VBMI_128, "avx512vbmi"},
    {ZYDIS_ISA_SET_AVX512_VBMI_256, "avx512vbmi"}, {ZYDIS_ISA_SET_AVX512_VBMI_512, "avx512vbmi"},
    {ZYDIS_ISA_SET_AVX512_VBMI2_128, "avx512_vbmi2"}, {ZYDIS_ISA_SET_AVX512_VBMI2_256, "avx512_vbmi2"},
    {ZYDIS_ISA_SET_AVX512_VBMI2_512, "avx512_vbmi2"}, {ZYDIS_ISA_SET_AVX512_VNNI_128, "avx512_vnni"},
    {ZYDIS_ISA_SET_AVX512_VNNI_256, "avx512_vnni"}, {ZYDIS_ISA_SET_AVX512_VNNI_512, "avx512_vnni"},
    {ZYDIS_ISA_SET_AVX512_VP2INTERSECT_128, "avx512_vp2intersect"}, {ZYDIS_ISA_SET_AVX512_VP2INTERSECT_256, "avx512_vp2intersect"},
    {ZYDIS_ISA_SET_AVX512_VP2INTERSECT_512, "avx512_vp2intersect"}, {ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_128, "avx512_vpopcntdq"},
    {ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_256, "avx512_vpopcntdq"}, {ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_512, "avx512_vpopcntdq"},
    {ZYDIS_ISA_SET_XSAVE, "xsave"}, {ZYDIS_ISA_SET_XSAVEC, "xsavec"}, {ZYDIS_ISA_SET_XSAVEOPT, "xsaveopt"},
    {ZYDIS_ISA_SET_CLFLUSHOPT, "clflushopt"}, {ZYDIS_ISA_SET_CLWB, "clwb"}, {ZYDIS_ISA_SET_CLZERO, "clzero"},
    {ZYDIS_ISA_SET_MOVDIR, "movdiri"}, {ZYDIS_ISA_SET_WAITPKG, "waitpkg"}, {ZYDIS_ISA_SET_SERIALIZE, "serialize"},
    {ZYDIS_ISA_SET_PKU, "pku"}, {ZYDIS_ISA_SET_MONITORX, "mwaitx"}, {ZYDIS_ISA_SET_RDPRU, "rdpru"},
    {ZYDIS_ISA_SET_ENQCMD, "enqcmd"}, {ZYDIS_ISA_SET_PREFETCHWT1, "prefetchwt1"},
};

enum { table_count = sizeof table / sizeof table[0] };
_Static_assert(table_count < 128, "sets of features have 128 places");

// A feature's number is one more than the place of its first mention.
static uint16_t first_mention(size_t index) {
    for (size_t i = 0; i < index; i++) {
        if (strcmp(table[i].feature, table[index].feature) == 0) return (uint16_t)(i + 1);
    }
    return (uint16_t)(index + 1);
}

static void load(void) {
    void *library = dlopen("libZydis.so.4.0", RTLD_NOW | RTLD_LOCAL);
    if (!library) return;
    *(void **)&zydis.init = dlsym(library, "ZydisDecoderInit");
    *(void **)&zydis.instruction = dlsym(library, "ZydisDecoderDecodeInstruction");
    *(void **)&zydis.full = dlsym(library, "ZydisDecoderDecodeFull");
    *(void **)&zydis.enclosing = dlsym(library, "ZydisRegisterGetLargestEnclosing");
    *(void **)&zydis.number = dlsym(library, "ZydisRegisterGetId");
    *(void **)&zydis.class = dlsym(library, "ZydisRegisterGetClass");
    if (!zydis.init || !zydis.instruction || !zydis.full || !zydis.enclosing || !zydis.number || !zydis.class) return;
    if (ZYAN_FAILED(zydis.init(&zydis.decoder, ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64))) return;
    for (size_t i = 0; i < table_count; i++) zydis.features[table[i].set] = first_mention(i);
    zydis.ready = 1;
}

int sciferry_x86_available(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    return zydis.ready;
}

const char *sciferry_x86_feature(uint16_t feature) {
    return feature > 0 && feature <= table_count ? table[feature - 1].feature : NULL;
}

static uint16_t feature_of(const ZydisDecodedInstruction *instruction) {
    switch (instruction->mnemonic) {
    // Older CPUs run it as BSF, and compilers write it for them where both give the same (gcc's "rep bsf").
    case ZYDIS_MNEMONIC_TZCNT: return 0;
    // Answers whether the operating system saves the wider registers; it stands in checks.
    case ZYDIS_MNEMONIC_XGETBV: return 0;
    // Does nothing, or ends the program, where there is no transaction.
    case ZYDIS_MNEMONIC_XABORT: return 0;
    default: return zydis.features[instruction->meta.isa_set];
    }
}

// XBEGIN names where an abort goes on, and XABORT goes on when no transaction runs; the decoder takes both for branches.
static ZydisInstructionCategory category_of(const ZydisDecodedInstruction *instruction) {
    return instruction->mnemonic == ZYDIS_MNEMONIC_XABORT ? ZYDIS_CATEGORY_INVALID : instruction->meta.category;
}

static int has_rip_memory(const ZydisDecodedInstruction *instruction) {
    return (instruction->attributes & ZYDIS_ATTRIB_HAS_MODRM) && instruction->raw.modrm.mod == 0 && instruction->raw.modrm.rm == 5;
}

static struct sciferry_fact *append(struct sciferry_facts *facts, size_t *room) {
    if (facts->count == *room) {
        size_t wider = *room ? *room * 2 : 4096;
        struct sciferry_fact *items = realloc(facts->items, wider * sizeof *items);
        if (!items) return NULL;
        facts->items = items;
        *room = wider;
    }
    return &facts->items[facts->count++];
}

int sciferry_x86_scan(
    const uint8_t *bytes, size_t count, uint64_t address, const uint64_t *starts, size_t start_count, uint64_t text_start,
    uint64_t text_end, struct sciferry_facts *facts) {
    memset(facts, 0, sizeof *facts);
    if (!sciferry_x86_available()) return 1;
    size_t room = 0, offset = 0, next = 0;
    uint64_t seen[(table_count + 64) / 64];
    memset(seen, 0, sizeof seen);
    uint64_t low = address, high = address + count;
    // Whether control goes on behind the last instruction, and how long that was.
    int goes_on = 0;
    uint32_t last_length = 0;
#define FACT(k, t, f)                                                                      \
    do {                                                                                   \
        struct sciferry_fact *fact = append(facts, &room);                                 \
        if (!fact) return 0;                                                               \
        *fact = (struct sciferry_fact){address + offset, (t), (f), (k), instruction.length}; \
    } while (0)
    while (next < start_count && starts[next] < address) next++;
    while (offset < count) {
        uint64_t here = address + offset;
        if (next < start_count && starts[next] <= here) {
            while (next < start_count && starts[next] <= here) next++;
            low = starts[next - 1];
            high = next < start_count ? starts[next] : address + count;
            memset(seen, 0, sizeof seen);
            if (goes_on) {
                struct sciferry_fact *fact = append(facts, &room);
                if (!fact) return 0;
                *fact = (struct sciferry_fact){here - last_length, here, 0, SCIFERRY_FACT_JUMP, last_length};
            }
        }
        // Known starts win over what the bytes before them seem to be.
        size_t left = (high < address + count && high > here ? high : address + count) - here;
        ZydisDecodedInstruction instruction;
        if (ZYAN_FAILED(zydis.instruction(&zydis.decoder, NULL, bytes + offset, left, &instruction))) {
            goes_on = 0;
            offset++;
            continue;
        }
        uint16_t feature = feature_of(&instruction);
        if (feature && !(seen[feature / 64] >> feature % 64 & 1)) {
            seen[feature / 64] |= 1ull << feature % 64;
            FACT(SCIFERRY_FACT_FEATURE, 0, feature);
        }
        uint64_t after = here + instruction.length;
        switch (category_of(&instruction)) {
        case ZYDIS_CATEGORY_CALL:
        case ZYDIS_CATEGORY_UNCOND_BR:
        case ZYDIS_CATEGORY_COND_BR: {
            int calls = category_of(&instruction) == ZYDIS_CATEGORY_CALL;
            if (instruction.raw.imm[0].is_relative) {
                uint64_t target = after + (uint64_t)instruction.raw.imm[0].value.s;
                if (target < low || target >= high || (calls && target != after)) {
                    FACT(calls ? SCIFERRY_FACT_CALL : SCIFERRY_FACT_JUMP, target, 0);
                }
            } else if (has_rip_memory(&instruction)) {
                FACT(calls ? SCIFERRY_FACT_CALL_SLOT : SCIFERRY_FACT_JUMP_SLOT, after + (uint64_t)instruction.raw.disp.value, 0);
            }
            // A function that nothing names may begin behind a jump.
            if (category_of(&instruction) == ZYDIS_CATEGORY_UNCOND_BR) memset(seen, 0, sizeof seen);
            break;
        }
        case ZYDIS_CATEGORY_RET: memset(seen, 0, sizeof seen); break;
        default:
            if (has_rip_memory(&instruction)) {
                FACT(instruction.mnemonic == ZYDIS_MNEMONIC_LEA ? SCIFERRY_FACT_ADDRESS : SCIFERRY_FACT_MEMORY,
                     after + (uint64_t)instruction.raw.disp.value, 0);
            } else if (text_end && instruction.raw.imm[0].size == 32 && instruction.raw.imm[0].value.u >= text_start &&
                       instruction.raw.imm[0].value.u < text_end) {
                FACT(SCIFERRY_FACT_ADDRESS, instruction.raw.imm[0].value.u, 0);
            } else if (text_end && instruction.raw.disp.size == 32 && instruction.raw.disp.value > 0 &&
                       (uint64_t)instruction.raw.disp.value >= text_start) {
                FACT(SCIFERRY_FACT_MEMORY, (uint64_t)instruction.raw.disp.value, 0);
            }
            if (instruction.mnemonic == ZYDIS_MNEMONIC_CPUID || instruction.mnemonic == ZYDIS_MNEMONIC_XGETBV) {
                FACT(SCIFERRY_FACT_QUERY, 0, 0);
            }
        }
        // Behind a call at the very end of a function nothing follows: who is called does not return. Zeros are no code.
        goes_on = category_of(&instruction) != ZYDIS_CATEGORY_CALL && category_of(&instruction) != ZYDIS_CATEGORY_UNCOND_BR &&
            category_of(&instruction) != ZYDIS_CATEGORY_RET && instruction.mnemonic != ZYDIS_MNEMONIC_NOP &&
            instruction.mnemonic != ZYDIS_MNEMONIC_INT3 && instruction.mnemonic != ZYDIS_MNEMONIC_UD2 &&
            instruction.mnemonic != ZYDIS_MNEMONIC_HLT && (bytes[offset] | bytes[offset + instruction.length - 1]) != 0;
        last_length = instruction.length;
        offset += instruction.length;
    }
#undef FACT
    return 1;
}

void sciferry_facts_free(struct sciferry_facts *facts) {
    free(facts->items);
    memset(facts, 0, sizeof *facts);
}

// A register's bit, or 0 for one that carries nothing of interest.
static uint64_t bit_of(ZydisRegister reg, uint8_t *general) {
    *general = 255;
    switch (zydis.class(reg)) {
    case ZYDIS_REGCLASS_GPR8:
    case ZYDIS_REGCLASS_GPR16:
    case ZYDIS_REGCLASS_GPR32:
    case ZYDIS_REGCLASS_GPR64: *general = (uint8_t)zydis.number(zydis.enclosing(ZYDIS_MACHINE_MODE_LONG_64, reg)); return 1ull << *general;
    case ZYDIS_REGCLASS_FLAGS: return 1ull << 16;
    case ZYDIS_REGCLASS_XMM:
    case ZYDIS_REGCLASS_YMM:
    case ZYDIS_REGCLASS_ZMM: return 1ull << (32 + (zydis.number(zydis.enclosing(ZYDIS_MACHINE_MODE_LONG_64, reg)) & 15));
    case ZYDIS_REGCLASS_MASK: return 1ull << (48 + (zydis.number(reg) & 7));
    default: return 0;
    }
}

static uint8_t operation_of(const ZydisDecodedInstruction *instruction, const ZydisDecodedOperand *operands) {
    switch (instruction->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        return operands[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? SCIFERRY_OPERATION_CONSTANT : SCIFERRY_OPERATION_MOVE;
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_MOVQ:
    case ZYDIS_MNEMONIC_MOVD: return SCIFERRY_OPERATION_MOVE;
    case ZYDIS_MNEMONIC_LEA: return SCIFERRY_OPERATION_ADDRESS;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB: return operands[1].type == ZYDIS_OPERAND_TYPE_IMMEDIATE ? SCIFERRY_OPERATION_ADD : SCIFERRY_OPERATION_OTHER;
    case ZYDIS_MNEMONIC_AND: return operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER && operands[0].reg.value == ZYDIS_REGISTER_RSP
            ? SCIFERRY_OPERATION_ALIGN : SCIFERRY_OPERATION_OTHER;
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_PXOR:
    case ZYDIS_MNEMONIC_SBB:
        return instruction->mnemonic != ZYDIS_MNEMONIC_SBB && operands[0].type == ZYDIS_OPERAND_TYPE_REGISTER &&
                operands[1].type == ZYDIS_OPERAND_TYPE_REGISTER && operands[0].reg.value == operands[1].reg.value
            ? SCIFERRY_OPERATION_CONSTANT : SCIFERRY_OPERATION_OTHER;
    case ZYDIS_MNEMONIC_PUSH: return SCIFERRY_OPERATION_PUSH;
    case ZYDIS_MNEMONIC_POP: return SCIFERRY_OPERATION_POP;
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_XGETBV: return SCIFERRY_OPERATION_QUERY;
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_INT3: return SCIFERRY_OPERATION_NOTHING;
    default: return instruction->meta.category == ZYDIS_CATEGORY_CMOV ? SCIFERRY_OPERATION_CHOOSE : SCIFERRY_OPERATION_OTHER;
    }
}

static void flow_of(const ZydisDecodedInstruction *instruction, struct sciferry_instruction *out) {
    int direct = instruction->raw.imm[0].is_relative;
    uint64_t target = out->address + instruction->length + (uint64_t)instruction->raw.imm[0].value.s;
    switch (category_of(instruction)) {
    case ZYDIS_CATEGORY_CALL:
        out->flow = direct ? SCIFERRY_FLOW_CALL : SCIFERRY_FLOW_CALL_INDIRECT;
        if (direct) out->target = target;
        break;
    case ZYDIS_CATEGORY_UNCOND_BR:
        out->flow = direct ? SCIFERRY_FLOW_JUMP : SCIFERRY_FLOW_JUMP_INDIRECT;
        if (direct) out->target = target;
        break;
    case ZYDIS_CATEGORY_COND_BR:
        out->flow = SCIFERRY_FLOW_BRANCH;
        out->target = target;
        break;
    case ZYDIS_CATEGORY_RET: out->flow = SCIFERRY_FLOW_RETURN; break;
    default:
        out->flow = instruction->mnemonic == ZYDIS_MNEMONIC_UD2 || instruction->mnemonic == ZYDIS_MNEMONIC_HLT ||
                instruction->mnemonic == ZYDIS_MNEMONIC_INT3
            ? SCIFERRY_FLOW_STOP : SCIFERRY_FLOW_NEXT;
    }
}

static void operand_of(const ZydisDecodedOperand *operand, int is_lea, struct sciferry_instruction *out) {
    uint8_t general;
    switch (operand->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER: {
        uint64_t bit = bit_of(operand->reg.value, &general);
        if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ) {
            out->reads |= bit;
            if (out->source == 255 && bit && operand->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN && !(operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE))
                out->source = (uint8_t)__builtin_ctzll(bit);
        }
        if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) {
            out->writes |= bit;
            if (out->destination == 255 && bit && operand->visibility != ZYDIS_OPERAND_VISIBILITY_HIDDEN) out->destination = (uint8_t)__builtin_ctzll(bit);
        }
        break;
    }
    case ZYDIS_OPERAND_TYPE_MEMORY:
        if (operand->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN) break;
        out->width = (uint8_t)(operand->size / 8 > 64 ? 64 : operand->size / 8);
        if (!is_lea) {
            if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_READ) out->access |= 1;
            if (operand->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) out->access |= 2;
        }
        // What lies relative to FS or GS belongs to the thread.
        if (operand->mem.segment == ZYDIS_REGISTER_FS || operand->mem.segment == ZYDIS_REGISTER_GS) break;
        out->displacement = operand->mem.disp.has_displacement ? operand->mem.disp.value : 0;
        if (operand->mem.base == ZYDIS_REGISTER_RIP) {
            out->memory = 1;
            out->target = out->address + out->length + (uint64_t)out->displacement;
            break;
        }
        bit_of(operand->mem.index, &out->index);
        if (operand->mem.base == ZYDIS_REGISTER_NONE) {
            out->memory = 1;
            out->target = (uint64_t)out->displacement;
            break;
        }
        out->memory = 2;
        bit_of(operand->mem.base, &out->base);
        break;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        if (!operand->imm.is_relative) out->immediate = operand->imm.value.s;
        break;
    default: break;
    }
}

size_t sciferry_x86_decode(const uint8_t *bytes, size_t count, uint64_t address, struct sciferry_instruction *out, size_t limit) {
    size_t offset = 0, made = 0;
    if (!sciferry_x86_available()) return 0;
    while (offset < count && made < limit) {
        ZydisDecodedInstruction instruction;
        ZydisDecodedOperand operands[ZYDIS_MAX_OPERAND_COUNT];
        memset(operands, 0, 2 * sizeof operands[0]);
        if (ZYAN_FAILED(zydis.full(&zydis.decoder, bytes + offset, count - offset, &instruction, operands))) {
            offset++;
            continue;
        }
        struct sciferry_instruction *item = &out[made++];
        memset(item, 0, sizeof *item);
        item->base = item->index = item->destination = item->source = 255;
        item->address = address + offset;
        item->length = instruction.length;
        item->feature = feature_of(&instruction);
        for (size_t i = 0; i < instruction.operand_count; i++) operand_of(&operands[i], instruction.mnemonic == ZYDIS_MNEMONIC_LEA, item);
        item->operation = operation_of(&instruction, operands);
        if (instruction.mnemonic == ZYDIS_MNEMONIC_SUB) item->immediate = -item->immediate;
        if (instruction.cpu_flags && instruction.cpu_flags->tested) item->reads |= 1ull << 16;
        if (instruction.cpu_flags && (instruction.cpu_flags->modified | instruction.cpu_flags->set_0 | instruction.cpu_flags->set_1))
            item->writes |= 1ull << 16;
        flow_of(&instruction, item);
        offset += instruction.length;
    }
    return made;
}
