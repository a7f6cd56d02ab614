// libcurl with the variadic calls given fixed types.
#ifndef SCIFERRY_CCURL_H
#define SCIFERRY_CCURL_H
#include <curl/curl.h>

CURLcode sciferry_curl_set_long(CURL *handle, CURLoption option, long value);
CURLcode sciferry_curl_set_offset(CURL *handle, CURLoption option, curl_off_t value);
CURLcode sciferry_curl_set_string(CURL *handle, CURLoption option, const char *value);
CURLcode sciferry_curl_set_pointer(CURL *handle, CURLoption option, void *value);
CURLcode sciferry_curl_set_list(CURL *handle, CURLoption option, struct curl_slist *value);
CURLcode sciferry_curl_set_blob(CURL *handle, CURLoption option, const void *data, size_t length);

typedef size_t (*sciferry_curl_data)(char *data, size_t size, size_t count, void *context);
typedef int (*sciferry_curl_progress)(
    void *context, curl_off_t down_total, curl_off_t down, curl_off_t up_total, curl_off_t up);
CURLcode sciferry_curl_set_write(CURL *handle, sciferry_curl_data callback, void *context);
CURLcode sciferry_curl_set_read(CURL *handle, sciferry_curl_data callback, void *context);
CURLcode sciferry_curl_set_header(CURL *handle, sciferry_curl_data callback, void *context);
CURLcode sciferry_curl_set_progress(CURL *handle, sciferry_curl_progress callback, void *context);
long sciferry_curl_get_status(CURL *handle);
#endif
