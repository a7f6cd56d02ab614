// Prints dimensions, voxel sizes and data type of NIfTI-1 files (nifti1.h of the NIfTI DFWG).
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int main(int count, char **names) {
    int failures = 0;
    if (count < 2) {
        fprintf(stderr, "usage: nifti-header FILE...\n");
        return 64;
    }
    for (int i = 1; i < count; i++) {
        unsigned char head[348];
        FILE *file = fopen(names[i], "rb");
        if (file == NULL || fread(head, 1, sizeof head, file) != sizeof head || memcmp(head + 344, "n+1", 4) != 0) {
            fprintf(stderr, "%s: no single-file NIfTI-1 image\n", names[i]);
            failures++;
        } else {
            int16_t dim[8], type;
            float size[8];
            memcpy(dim, head + 40, sizeof dim);
            memcpy(&type, head + 70, sizeof type);
            memcpy(size, head + 76, sizeof size);
            printf("%s: %d x %d x %d", names[i], dim[1], dim[2], dim[3]);
            printf(", voxels %.3f x %.3f x %.3f mm, type %d\n", size[1], size[2], size[3], type);
        }
        if (file != NULL) fclose(file);
    }
    return failures == 0 ? 0 : 1;
}
