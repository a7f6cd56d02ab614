// libzstd, linked statically so that the worker's own version pins the bytes.
#ifndef SCIFERRY_CZSTD_H
#define SCIFERRY_CZSTD_H
#include <zstd.h>
#include <zstd_errors.h>
#endif
