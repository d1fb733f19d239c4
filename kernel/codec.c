// SPDX-License-Identifier: GPL-2.0
/* How units are encoded, and what their bytes are kept in. */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <crypto/acompress.h>
#include <linux/scatterlist.h>
#include <linux/zstd.h>

#include "agentmem.h"

#define AM_CODECS_MAX	8

static char *codec = "zstd";
module_param(codec, charp, 0444);
MODULE_PARM_DESC(codec, "zstd, or the name of any acomp algorithm, such as deflate (default: zstd)");

static int level = 3;
module_param(level, int, 0444);
MODULE_PARM_DESC(level, "level of zstd, 1 to 12 (default: 3)");

/*
 * As many as there are processors, up to AM_CODECS_MAX. With a codec's lock held
 * nothing is allocated that could wait for reclaim, since reclaim needs codecs.
 */
struct am_codec {
	struct mutex lock;	/* of whoever uses it */
	void *plain;
	void *packed;
	void *zstd;		/* workspaces of zstd */
	void *unzstd;
	struct crypto_acomp *acomp;
	struct acomp_req *request;
};

/* ---- chunks ---- */

#define AM_CHUNK_MAX	SZ_4K
#define AM_CHUNK_MIN	SZ_256

/* How large a chunk to take for what is left: a class of kmalloc, or all of it. */
static u32 am_chunk_bytes(u32 left)
{
	u32 all = sizeof(struct am_chunk) + left;

	if (all <= AM_CHUNK_MIN)
		return kmalloc_size_roundup(all);
	return min_t(u32, rounddown_pow_of_two(all), AM_CHUNK_MAX);
}

u32 am_chunks_stored_bytes(u32 packed_bytes)
{
	u32 stored_bytes = 0;

	while (packed_bytes) {
		u32 bytes = am_chunk_bytes(packed_bytes);

		stored_bytes += bytes;
		packed_bytes -= min_t(u32, packed_bytes, bytes - sizeof(struct am_chunk));
	}
	return stored_bytes;
}

void am_chunks_free(struct am_chunk *chunk)
{
	while (chunk) {
		struct am_chunk *next = chunk->next;

		kfree(chunk);
		chunk = next;
	}
}

struct am_chunk *am_chunks_make(const struct am_codec *codec, u32 packed_bytes)
{
	const u8 *from = codec->packed;
	u32 left = packed_bytes;
	struct am_chunk *first = NULL, **end = &first;

	while (left) {
		u32 bytes = am_chunk_bytes(left);
		u32 here = min_t(u32, left, bytes - sizeof(struct am_chunk));
		struct am_chunk *chunk = kmalloc(bytes, AM_GFP_DEMOTE);

		if (!chunk) {
			am_chunks_free(first);
			return NULL;
		}
		chunk->next = NULL;
		memcpy(chunk->bytes, from, here);
		*end = chunk;
		end = &chunk->next;
		from += here;
		left -= here;
	}
	return first;
}

static void am_chunks_read(const struct am_chunk *chunk, u8 *to, u32 left)
{
	for (; chunk; chunk = chunk->next) {
		u32 here = min_t(u32, left, am_chunk_bytes(left) - sizeof(*chunk));

		memcpy(to, chunk->bytes, here);
		to += here;
		left -= here;
	}
}

/* ---- codecs ---- */

static struct am_codec am_codecs[AM_CODECS_MAX];
static unsigned int am_codecs_nr;
static bool am_is_zstd;
static size_t am_zstd_bytes;	/* of a workspace for units of any length */

struct am_codec *am_codec_get(bool may_wait)
{
	unsigned int first = raw_smp_processor_id() % am_codecs_nr;
	unsigned int i;

	for (i = 0; i < am_codecs_nr; i++) {
		struct am_codec *each = &am_codecs[(first + i) % am_codecs_nr];

		if (mutex_trylock(&each->lock))
			return each;
	}
	if (!may_wait)
		return NULL;
	mutex_lock(&am_codecs[first].lock);
	return &am_codecs[first];
}

void am_codec_put(struct am_codec *codec)
{
	mutex_unlock(&codec->lock);
}

static int am_acomp(struct am_codec *codec, bool compress, u32 from_bytes, u32 *to_bytes)
{
	struct scatterlist from, to;
	DECLARE_CRYPTO_WAIT(wait);
	int error;

	sg_init_one(&from, compress ? codec->plain : codec->packed, from_bytes);
	sg_init_one(&to, compress ? codec->packed : codec->plain, *to_bytes);
	acomp_request_set_params(codec->request, &from, &to, from_bytes, *to_bytes);
	acomp_request_set_callback(codec->request, CRYPTO_TFM_REQ_MAY_SLEEP, crypto_req_done,
				   &wait);
	error = compress ? crypto_acomp_compress(codec->request) :
			   crypto_acomp_decompress(codec->request);
	error = crypto_wait_req(error, &wait);
	*to_bytes = codec->request->dlen;
	return error;
}

/* Where what is to be compressed is put, and what was decompressed lies. */
void *am_codec_plain(struct am_codec *codec)
{
	return codec->plain;
}

/* The tables of a level are smaller for less to compress. */
static zstd_parameters am_zstd_parameters(u32 plain_bytes)
{
	return zstd_get_params(clamp(level, 1, 12), plain_bytes);
}

/* 0 if it does not come out shorter. */
static u32 am_compress_shorter(struct am_codec *codec, u32 plain_bytes)
{
	u32 max_bytes = plain_bytes - 1, packed_bytes = max_bytes;

	if (am_is_zstd) {
		zstd_parameters parameters = am_zstd_parameters(plain_bytes);
		zstd_cctx *context = zstd_init_cctx(codec->zstd, am_zstd_bytes);
		size_t n = zstd_compress_cctx(context, codec->packed, max_bytes, codec->plain,
					      plain_bytes, &parameters);

		return zstd_is_error(n) ? 0 : n;
	}
	if (am_acomp(codec, true, plain_bytes, &packed_bytes) || packed_bytes > max_bytes)
		return 0;
	return packed_bytes;
}

/*
 * How long it comes out, for am_chunks_make. What does not get shorter is copied:
 * of a page that is not full, that may be worth keeping in its place.
 */
u32 am_compress(struct am_codec *codec, u32 plain_bytes)
{
	u32 packed_bytes = am_compress_shorter(codec, plain_bytes);

	if (packed_bytes)
		return packed_bytes;
	memcpy(codec->packed, codec->plain, plain_bytes);
	return plain_bytes;
}

/* To plain, whose length is known. */
int am_decompress(struct am_codec *codec, const struct am_chunk *chunks, u32 packed_bytes,
		  u32 plain_bytes)
{
	u32 got_bytes = plain_bytes;

	if (packed_bytes == plain_bytes) {
		am_chunks_read(chunks, codec->plain, plain_bytes);
		return 0;
	}
	am_chunks_read(chunks, codec->packed, packed_bytes);
	if (am_is_zstd) {
		zstd_dctx *context = zstd_init_dctx(codec->unzstd, zstd_dctx_workspace_bound());
		size_t n = zstd_decompress_dctx(context, codec->plain, plain_bytes, codec->packed,
						packed_bytes);

		return zstd_is_error(n) || n != plain_bytes ? -EIO : 0;
	}
	if (am_acomp(codec, false, packed_bytes, &got_bytes) || got_bytes != plain_bytes)
		return -EIO;
	return 0;
}

static void am_codec_free(struct am_codec *codec)
{
	if (codec->request)
		acomp_request_free(codec->request);
	if (!IS_ERR_OR_NULL(codec->acomp))
		crypto_free_acomp(codec->acomp);
	kvfree(codec->unzstd);
	kvfree(codec->zstd);
	kfree(codec->packed);
	kfree(codec->plain);
}

static int am_codec_init(struct am_codec *it)
{
	mutex_init(&it->lock);
	/* Contiguous, because acomp takes lists of pages. */
	it->plain = kmalloc(AM_UNIT_BYTES_MAX, GFP_KERNEL);
	it->packed = kmalloc(AM_UNIT_BYTES_MAX, GFP_KERNEL);
	if (!it->plain || !it->packed)
		return -ENOMEM;
	if (am_is_zstd) {
		it->zstd = kvmalloc(am_zstd_bytes, GFP_KERNEL);
		it->unzstd = kvmalloc(zstd_dctx_workspace_bound(), GFP_KERNEL);
		return it->zstd && it->unzstd ? 0 : -ENOMEM;
	}
	it->acomp = crypto_alloc_acomp(codec, 0, 0);
	if (IS_ERR(it->acomp))
		return PTR_ERR(it->acomp);
	it->request = acomp_request_alloc(it->acomp);
	return it->request ? 0 : -ENOMEM;
}

void am_codecs_stop(void)
{
	while (am_codecs_nr)
		am_codec_free(&am_codecs[--am_codecs_nr]);
}

int am_codecs_start(void)
{
	unsigned int wanted = min_t(unsigned int, num_online_cpus(), AM_CODECS_MAX);
	u32 bytes;

	am_is_zstd = !strcmp(codec, "zstd");
	for (bytes = PAGE_SIZE; bytes <= AM_UNIT_BYTES_MAX; bytes *= 2) {
		zstd_parameters parameters = am_zstd_parameters(bytes);

		am_zstd_bytes = max(am_zstd_bytes, zstd_cctx_workspace_bound(&parameters.cParams));
	}
	while (am_codecs_nr < wanted) {
		int error = am_codec_init(&am_codecs[am_codecs_nr++]);

		if (error) {
			pr_err("codec %s cannot be used: error %d\n", codec, error);
			am_codecs_stop();
			return error;
		}
	}
	return 0;
}
