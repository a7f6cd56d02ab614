#include "CSquashfs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    sqfs_file_t base;
    int fd;
    sqfs_u64 offset;
    sqfs_u64 size;
    /// Nothing lies behind `size`, whatever the file system says.
    int bounded;
    /// Why the last write failed, as errno says it.
    int trouble;
} offset_file;

static int offset_read(sqfs_file_t *base, sqfs_u64 position, void *buffer, size_t size) {
    offset_file *file = (offset_file *)base;
    char *cursor = buffer;
    if (file->bounded && (position > file->size || size > file->size - position)) return SQFS_ERROR_OUT_OF_BOUNDS;
    while (size > 0) {
        ssize_t got = pread(file->fd, cursor, size, (off_t)(file->offset + position));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return SQFS_ERROR_IO;
        if (got == 0) return SQFS_ERROR_OUT_OF_BOUNDS;
        cursor += got;
        position += (sqfs_u64)got;
        size -= (size_t)got;
    }
    return 0;
}

static int offset_write(sqfs_file_t *base, sqfs_u64 position, const void *buffer, size_t size) {
    offset_file *file = (offset_file *)base;
    const char *cursor = buffer;
    while (size > 0) {
        ssize_t put = pwrite(file->fd, cursor, size, (off_t)(file->offset + position));
        if (put < 0 && errno == EINTR) continue;
        if (put <= 0) {
            file->trouble = put < 0 ? errno : EIO;
            return SQFS_ERROR_IO;
        }
        cursor += put;
        position += (sqfs_u64)put;
        size -= (size_t)put;
        if (position > file->size) file->size = position;
    }
    return 0;
}

static sqfs_u64 offset_size(const sqfs_file_t *base) { return ((const offset_file *)base)->size; }

static int offset_truncate(sqfs_file_t *base, sqfs_u64 size) {
    offset_file *file = (offset_file *)base;
    if (ftruncate(file->fd, (off_t)(file->offset + size)) != 0) return SQFS_ERROR_IO;
    file->size = size;
    return 0;
}

static void offset_destroy(sqfs_object_t *object) { free(object); }

sqfs_file_t *sciferry_sqfs_file(int fd, sqfs_u64 offset) {
    offset_file *file = calloc(1, sizeof(*file));
    if (file == NULL) return NULL;
    file->fd = fd;
    file->offset = offset;
    file->base.read_at = offset_read;
    file->base.write_at = offset_write;
    file->base.get_size = offset_size;
    file->base.truncate = offset_truncate;
    ((sqfs_object_t *)file)->destroy = offset_destroy;
    return &file->base;
}

sqfs_file_t *sciferry_sqfs_open(int fd, sqfs_u64 offset, sqfs_u64 size) {
    offset_file *file = (offset_file *)sciferry_sqfs_file(fd, offset);
    if (file == NULL) return NULL;
    file->size = size;
    file->bounded = 1;
    return &file->base;
}

int sciferry_sqfs_decompressor(const sqfs_super_t *super, sqfs_file_t *file, sqfs_compressor_t **out) {
    sqfs_compressor_config_t config;
    int error = sqfs_compressor_config_init(
        &config, (SQFS_COMPRESSOR)super->compression_id, super->block_size, SQFS_COMP_FLAG_UNCOMPRESS);
    if (error != 0) return error;
    error = sqfs_compressor_create(&config, out);
    if (error != 0) return error;
    if (super->flags & SQFS_FLAG_COMPRESSOR_OPTIONS) {
        error = (*out)->read_options(*out, file);
        if (error != 0) {
            sqfs_destroy(*out);
            *out = NULL;
        }
    }
    return error;
}

const sqfs_u8 *sciferry_sqfs_entry_name(const sqfs_dir_entry_t *entry, size_t *length) {
    *length = (size_t)entry->size + 1;
    return entry->name;
}

const sqfs_u8 *sciferry_sqfs_target(const sqfs_inode_generic_t *inode, size_t *length) {
    if (inode->base.type == SQFS_INODE_SLINK) {
        *length = inode->data.slink.target_size;
    } else if (inode->base.type == SQFS_INODE_EXT_SLINK) {
        *length = inode->data.slink_ext.target_size;
    } else {
        *length = 0;
        return NULL;
    }
    return (const sqfs_u8 *)inode->extra;
}

sqfs_u32 sciferry_sqfs_device(const sqfs_inode_generic_t *inode) {
    switch (inode->base.type) {
        case SQFS_INODE_BDEV:
        case SQFS_INODE_CDEV: return inode->data.dev.devno;
        case SQFS_INODE_EXT_BDEV:
        case SQFS_INODE_EXT_CDEV: return inode->data.dev_ext.devno;
        default: return 0;
    }
}

const char *sciferry_sqfs_key(const sqfs_xattr_entry_t *key) { return (const char *)key->key; }

const sqfs_u8 *sciferry_sqfs_value(const sqfs_xattr_value_t *value, size_t *length) {
    *length = value->size;
    return value->value;
}

int sciferry_sqfs_trouble(const sqfs_file_t *file) { return ((const offset_file *)file)->trouble; }

sqfs_u64 sciferry_sqfs_file_size(const sqfs_file_t *file) { return file->get_size(file); }

int sciferry_sqfs_write_options(sqfs_compressor_t *compressor, sqfs_file_t *file) {
    return compressor->write_options(compressor, file);
}

void sciferry_sqfs_destroy(const void *object) {
    if (object != NULL) sqfs_destroy((void *)object);
}

int sciferry_sqfs_compressor(int kind, sqfs_u32 block_size, sqfs_u32 level, sqfs_compressor_t **out) {
    sqfs_compressor_config_t config;
    int error = sqfs_compressor_config_init(&config, (SQFS_COMPRESSOR)kind, block_size, 0);
    if (error != 0) return error;
    if (level != 0) config.level = level;
    return sqfs_compressor_create(&config, out);
}

sqfs_inode_generic_t *sciferry_sqfs_symlink(const char *target, size_t length) {
    sqfs_inode_generic_t *inode = calloc(1, sizeof(*inode) + length + 1);
    if (inode == NULL) return NULL;
    inode->base.type = SQFS_INODE_SLINK;
    inode->data.slink.nlink = 1;
    inode->data.slink.target_size = (sqfs_u32)length;
    inode->payload_bytes_available = (sqfs_u32)length;
    inode->payload_bytes_used = (sqfs_u32)length;
    memcpy(inode->extra, target, length);
    return inode;
}

sqfs_inode_generic_t *sciferry_sqfs_special(sqfs_u16 type, sqfs_u32 device) {
    sqfs_inode_generic_t *inode = calloc(1, sizeof(*inode));
    if (inode == NULL) return NULL;
    inode->base.type = type;
    if (type == SQFS_INODE_BDEV || type == SQFS_INODE_CDEV) {
        inode->data.dev.nlink = 1;
        inode->data.dev.devno = device;
    } else {
        inode->data.ipc.nlink = 1;
    }
    return inode;
}

int sciferry_sqfs_set_links(sqfs_inode_generic_t *inode, sqfs_u32 links) {
    if (inode->base.type == SQFS_INODE_FILE) {
        if (links <= 1) return 0;
        int error = sqfs_inode_make_extended(inode);
        if (error != 0) return error;
    }
    switch (inode->base.type) {
        case SQFS_INODE_EXT_FILE: inode->data.file_ext.nlink = links; return 0;
        case SQFS_INODE_SLINK: inode->data.slink.nlink = links; return 0;
        case SQFS_INODE_EXT_SLINK: inode->data.slink_ext.nlink = links; return 0;
        case SQFS_INODE_BDEV:
        case SQFS_INODE_CDEV: inode->data.dev.nlink = links; return 0;
        case SQFS_INODE_EXT_BDEV:
        case SQFS_INODE_EXT_CDEV: inode->data.dev_ext.nlink = links; return 0;
        case SQFS_INODE_FIFO:
        case SQFS_INODE_SOCKET: inode->data.ipc.nlink = links; return 0;
        case SQFS_INODE_EXT_FIFO:
        case SQFS_INODE_EXT_SOCKET: inode->data.ipc_ext.nlink = links; return 0;
        default: return SQFS_ERROR_UNSUPPORTED;
    }
}

void sciferry_sqfs_free(void *memory) { sqfs_free(memory); }
