#include "CZlib.h"

int sciferry_gzip_begin(z_stream *stream) { return inflateInit2(stream, 15 + 16); }

int sciferry_zlib_begin(z_stream *stream) { return inflateInit2(stream, 15 + 32); }

int sciferry_gzip_pack(z_stream *stream, int level) {
    return deflateInit2(stream, level, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
}
