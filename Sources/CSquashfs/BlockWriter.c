#include "CSquashfs.h"

#include <stdlib.h>
#include <string.h>

// Appends the blocks of files and gives a file that is there already its place again. libsquashfs's own does the same with a scan
// over all blocks for every file; here a table finds the candidates. It also knows up to where the output will not change any more.
typedef struct {
    sqfs_u64 offset;
    /// Size and checksum as the library packs them; equal blocks have equal ones.
    sqfs_u64 hash;
    /// The block before it in the same bucket, or SIZE_MAX.
    size_t next;
} block;

typedef struct {
    sqfs_block_writer_t base;
    sqfs_file_t *file;
    block *blocks;
    size_t count, capacity;
    size_t *buckets;
    size_t bucket_count;
    size_t file_start;
    /// Some block before the file that is being written equals its first one: the file may be there already.
    int may_repeat;
    sqfs_u64 settled;
} table_writer;

static size_t bucket_of(const table_writer *writer, sqfs_u64 hash) {
    return (size_t)((hash * 0x9E3779B97F4A7C15u) >> 32) & (writer->bucket_count - 1);
}

static void insert(table_writer *writer, size_t index) {
    // Of equal blocks in a row the first stands for all: files of them begin there.
    if (index > 0 && writer->blocks[index - 1].hash == writer->blocks[index].hash) return;
    size_t *bucket = &writer->buckets[bucket_of(writer, writer->blocks[index].hash)];
    writer->blocks[index].next = *bucket;
    *bucket = index;
}

static int grow(table_writer *writer) {
    size_t capacity = writer->capacity == 0 ? 4096 : 2 * writer->capacity;
    block *blocks = realloc(writer->blocks, capacity * sizeof(block));
    if (blocks == NULL) return SQFS_ERROR_ALLOC;
    writer->blocks = blocks;
    size_t *buckets = malloc(capacity * sizeof(size_t));
    if (buckets == NULL) return SQFS_ERROR_ALLOC;
    free(writer->buckets);
    writer->buckets = buckets;
    writer->bucket_count = capacity;
    writer->capacity = capacity;
    for (size_t i = 0; i < capacity; i++) buckets[i] = SIZE_MAX;
    // The blocks of the file that is being written are put in when it is known to stay.
    for (size_t i = 0; i < writer->file_start; i++) insert(writer, i);
    return 0;
}

/// 1 when `size` bytes at both places are the same, 0 when not, or a negative error.
static int same_bytes(sqfs_file_t *file, sqfs_u64 one, sqfs_u64 other, sqfs_u64 size) {
    sqfs_u8 buffers[2][8192];
    while (size > 0) {
        size_t part = size < sizeof(buffers[0]) ? (size_t)size : sizeof(buffers[0]);
        int error = file->read_at(file, one, buffers[0], part);
        if (error == 0) error = file->read_at(file, other, buffers[1], part);
        if (error != 0) return error;
        if (memcmp(buffers[0], buffers[1], part) != 0) return 0;
        one += part;
        other += part;
        size -= part;
    }
    return 1;
}

/// Whether a file could begin at some block before it, as far as its first block tells.
static int has_candidate(const table_writer *writer, sqfs_u64 hash) {
    size_t index = writer->bucket_count == 0 ? SIZE_MAX : writer->buckets[bucket_of(writer, hash)];
    while (index != SIZE_MAX && writer->blocks[index].hash != hash) index = writer->blocks[index].next;
    return index != SIZE_MAX;
}

/// Finds the file that was just written among those before it; its index is `found`, or `file_start` when it is new.
static int find_equal(table_writer *writer, size_t *found) {
    size_t start = writer->file_start, length = writer->count - start;
    sqfs_u64 bytes = writer->file->get_size(writer->file) - writer->blocks[start].offset;
    *found = start;
    size_t index = writer->buckets[bucket_of(writer, writer->blocks[start].hash)];
    for (; index != SIZE_MAX; index = writer->blocks[index].next) {
        // The first of several is wanted, so that the choice does not depend on the table.
        if (index > *found || index + length > start) continue;
        size_t same = 0;
        while (same < length && writer->blocks[index + same].hash == writer->blocks[start + same].hash) same++;
        if (same < length) continue;
        int equal = same_bytes(writer->file, writer->blocks[index].offset, writer->blocks[start].offset, bytes);
        if (equal < 0) return equal;
        if (equal) *found = index;
    }
    return 0;
}

static int table_write(
    sqfs_block_writer_t *base, void *user, sqfs_u32 size, sqfs_u32 checksum, sqfs_u32 flags, const sqfs_u8 *data, sqfs_u64 *location) {
    (void)user;
    table_writer *writer = (table_writer *)base;
    if (flags & SQFS_BLK_FIRST_BLOCK) writer->file_start = writer->count;
    *location = writer->file->get_size(writer->file);
    if (size > 0 && !(flags & SQFS_BLK_IS_SPARSE)) {
        if (writer->count == writer->capacity) {
            int error = grow(writer);
            if (error != 0) return error;
        }
        sqfs_u64 word = size;
        if (!(flags & SQFS_BLK_IS_COMPRESSED)) word |= 1u << 24;
        block *next = &writer->blocks[writer->count++];
        next->offset = *location;
        next->hash = word << 32 | checksum;
        int error = writer->file->write_at(writer->file, *location, data, size);
        if (error != 0) return error;
        if (writer->count == writer->file_start + 1) writer->may_repeat = has_candidate(writer, next->hash);
        // A large file that is nowhere yet stays where it is, block by block.
        if (!writer->may_repeat) writer->settled = *location + size;
    }
    if (flags & SQFS_BLK_LAST_BLOCK) {
        size_t start = writer->file_start, found = start;
        if (start == writer->count) {
            *location = 0;
        } else {
            int error = find_equal(writer, &found);
            if (error != 0) return error;
            *location = writer->blocks[found].offset;
            if (found < start) {
                error = writer->file->truncate(writer->file, writer->blocks[start].offset);
                if (error != 0) return error;
                writer->count = start;
            } else {
                for (size_t i = start; i < writer->count; i++) insert(writer, i);
            }
        }
        writer->file_start = writer->count;
        writer->settled = writer->file->get_size(writer->file);
    }
    return 0;
}

static sqfs_u64 table_count(const sqfs_block_writer_t *base) { return ((const table_writer *)base)->count; }

static void table_destroy(sqfs_object_t *object) {
    table_writer *writer = (table_writer *)object;
    free(writer->blocks);
    free(writer->buckets);
    free(writer);
}

sqfs_block_writer_t *sciferry_sqfs_block_writer(sqfs_file_t *file) {
    table_writer *writer = calloc(1, sizeof(*writer));
    if (writer == NULL) return NULL;
    writer->file = file;
    writer->settled = file->get_size(file);
    writer->base.write_data_block = table_write;
    writer->base.get_block_count = table_count;
    ((sqfs_object_t *)writer)->destroy = table_destroy;
    return &writer->base;
}

sqfs_u64 sciferry_sqfs_settled(const sqfs_block_writer_t *base) { return ((const table_writer *)base)->settled; }
