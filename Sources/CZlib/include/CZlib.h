// zlib, linked statically like the other compressors of images.
#ifndef SCIFERRY_CZLIB_H
#define SCIFERRY_CZLIB_H
#include <zlib.h>

/// Begins to unpack gzip members; a zlib status.
int sciferry_gzip_begin(z_stream *stream);
/// Begins to unpack gzip members or a zlib stream, whichever comes; a zlib status.
int sciferry_zlib_begin(z_stream *stream);
/// Begins to pack one gzip member at that level; a zlib status. Its header names no time and no file.
int sciferry_gzip_pack(z_stream *stream, int level);
#endif
