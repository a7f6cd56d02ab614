// libsquashfs (squashfs-tools-ng) with what Swift cannot express: an output file that starts at an offset, inodes with
// a flexible tail, and calls through the library's function tables.
#ifndef SCIFERRY_CSQUASHFS_H
#define SCIFERRY_CSQUASHFS_H
#include <stddef.h>
#include <sqfs/block.h>
#include <sqfs/block_processor.h>
#include <sqfs/block_writer.h>
#include <sqfs/compressor.h>
#include <sqfs/data_reader.h>
#include <sqfs/dir.h>
#include <sqfs/dir_reader.h>
#include <sqfs/dir_writer.h>
#include <sqfs/error.h>
#include <sqfs/frag_table.h>
#include <sqfs/id_table.h>
#include <sqfs/inode.h>
#include <sqfs/io.h>
#include <sqfs/meta_writer.h>
#include <sqfs/predef.h>
#include <sqfs/super.h>
#include <sqfs/table.h>
#include <sqfs/xattr.h>
#include <sqfs/xattr_reader.h>
#include <sqfs/xattr_writer.h>

/// A squashfs output that begins `offset` bytes into the open, writable descriptor `fd` (which stays the caller's).
/// NULL when memory is short.
sqfs_file_t *sciferry_sqfs_file(int fd, sqfs_u64 offset);

/// A squashfs of `size` bytes that begins `offset` bytes into the open descriptor `fd`; nothing beyond it is read.
/// NULL when memory is short.
sqfs_file_t *sciferry_sqfs_open(int fd, sqfs_u64 offset, sqfs_u64 size);

/// What unpacks the blocks of a file system; 0 or a negative SQFS_ERROR.
int sciferry_sqfs_decompressor(const sqfs_super_t *super, sqfs_file_t *file, sqfs_compressor_t **out);

/// The name of a directory's entry, `length` bytes without NUL.
const sqfs_u8 *sciferry_sqfs_entry_name(const sqfs_dir_entry_t *entry, size_t *length);

/// The target of a symbolic link's inode, `length` bytes without NUL; NULL for another inode.
const sqfs_u8 *sciferry_sqfs_target(const sqfs_inode_generic_t *inode, size_t *length);

/// The number of a device's inode; 0 for another.
sqfs_u32 sciferry_sqfs_device(const sqfs_inode_generic_t *inode);

/// The whole name of an extended attribute that was read, NUL at its end.
const char *sciferry_sqfs_key(const sqfs_xattr_entry_t *key);

/// The value of an extended attribute, `length` bytes.
const sqfs_u8 *sciferry_sqfs_value(const sqfs_xattr_value_t *value, size_t *length);

/// Size so far, counted from the offset.
sqfs_u64 sciferry_sqfs_file_size(const sqfs_file_t *file);

/// Why writing failed, as errno says it; 0 when it did not.
int sciferry_sqfs_trouble(const sqfs_file_t *file);

/// Writes the compressor's options behind the super block; bytes written or a negative error.
int sciferry_sqfs_write_options(sqfs_compressor_t *compressor, sqfs_file_t *file);

/// Frees any libsquashfs object; NULL is allowed.
void sciferry_sqfs_destroy(const void *object);

/// What packs blocks of that size at that level, or with the library's own for 0; `kind` is an SQFS_COMPRESSOR. A negative SQFS_ERROR on
/// failure.
int sciferry_sqfs_compressor(int kind, sqfs_u32 block_size, sqfs_u32 level, sqfs_compressor_t **out);

/// Appends files' blocks to the output, equal files once. NULL when memory is short.
sqfs_block_writer_t *sciferry_sqfs_block_writer(sqfs_file_t *file);

/// Bytes of the output, counted from its offset, that blocks to come will not change.
sqfs_u64 sciferry_sqfs_settled(const sqfs_block_writer_t *writer);

/// A symbolic link's inode whose target is `length` bytes (no NUL needed). NULL when memory is short.
sqfs_inode_generic_t *sciferry_sqfs_symlink(const char *target, size_t length);

/// A device (`type` is an SQFS_INODE_TYPE), pipe or socket inode. NULL when memory is short.
sqfs_inode_generic_t *sciferry_sqfs_special(sqfs_u16 type, sqfs_u32 device);

/// Sets the link count in whichever layout the inode has, making a file inode extended when it needs one.
int sciferry_sqfs_set_links(sqfs_inode_generic_t *inode, sqfs_u32 links);

/// Frees an inode.
void sciferry_sqfs_free(void *memory);
#endif
