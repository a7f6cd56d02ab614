// SHA-256 of several pieces of data, two side by side in one core (FIPS 180-4).
#ifndef SCIFERRY_CDIGESTS_H
#define SCIFERRY_CDIGESTS_H

#include <stddef.h>
#include <stdint.h>

/// Whether this CPU has the instructions for it.
int sciferry_sha256_is_offered(void);

/// The digests of `count` pieces, 32 bytes each, one behind the other. Only where it is offered.
void sciferry_sha256_several(const uint8_t *const *pieces, const size_t *lengths, size_t count, uint8_t *digests);

#endif
