/*
 * A PKCS#11 module that passes every call to another module, the real one, and
 * injects faults on request. Package rig compiles and controls it.
 *
 * The requests and their results are in a file beside the module, which both
 * the module's process and the test map. The test can write it before the
 * module is loaded and read it after the process has died. A thread of the
 * shim acts on the real module while no call is in flight.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CK_PTR *
#define NULL_PTR 0
#define CK_DEFINE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION(type, name) type name
#define CK_DECLARE_FUNCTION_POINTER(type, name) type (*name)
#define CK_CALLBACK_FUNCTION(type, name) type (*name)
#include "pkcs11.h"

/* A function's number is its position in pkcs11f.h. The test relies on it too. */
enum {
#define CK_PKCS11_FUNCTION_INFO(name) FN_##name,
#include "pkcs11f.h"
#undef CK_PKCS11_FUNCTION_INFO
	FUNCTIONS
};

/*
 * faults.go repeats the layout of the two structures. The fields fail, flip,
 * cut, hang, crash, lie, mislead, swap, repeat and fill count the calls that
 * still get the fault; a negative count applies it to all calls.
 */
struct function {
	_Atomic int64_t calls;       /* the number of calls so far */
	_Atomic int64_t code;        /* the return value of a call that fails */
	_Atomic int64_t fail;        /* the call fails */
	_Atomic int64_t flip, cut;   /* the last bit of the output is flipped, the last byte missing */
	_Atomic int64_t hang, crash; /* the call waits for release, aborts the process */
	_Atomic int64_t delay;       /* of every call, in ns */
	_Atomic int64_t lie, length; /* the output's reported length is length */
	_Atomic int64_t mislead, promise; /* a query for the output's length returns promise */
	_Atomic int64_t swap, repeat;     /* the returned handles are other, or last */
	_Atomic int64_t other[2], last[2];
	_Atomic int64_t fill, first, step; /* the output is first, first + step and so on */
};

struct control {
	_Atomic int64_t size; /* of this structure, in bytes */
	char real[4096];      /* the real module's path */
	_Atomic int64_t in_flight, collisions, sessions, token_flags, max_sessions;
	_Atomic int64_t bad_slot, bad_slot_code; /* the slot plus one in which C_GetTokenInfo fails */
	_Atomic int64_t backwards;               /* slots are listed in reverse order */
	_Atomic int64_t lost_flags;              /* the token flags to remove */
	_Atomic int64_t serial;                  /* calls wait for each other */
	_Atomic int64_t hidden[64];              /* mechanisms, each plus one */
	_Atomic uint32_t request, done, released, padding;
	_Atomic int64_t action, result;
	struct function functions[96];
};

enum { CLOSE_SESSIONS = 1, LOGOUT, REINITIALIZE, QUIT };

static struct control *control;
static CK_FUNCTION_LIST_PTR real;
static pthread_rwlock_t calls; /* read: a call is in the real module */
static _Atomic CK_SLOT_ID slot; /* of the last session */
static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
static _Thread_local int has_turn; /* the call of this thread holds turn */

static void futex_wait(_Atomic uint32_t *word, uint32_t old)
{
	syscall(SYS_futex, word, FUTEX_WAIT, old, NULL, NULL, 0);
}

static void futex_wake(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE, INT32_MAX, NULL, NULL, 0);
}

/* take decrements a positive count. It returns 1 if the count was not zero. */
static int take(_Atomic int64_t *n)
{
	int64_t had = atomic_load(n);
	while (had > 0)
		if (atomic_compare_exchange_weak(n, &had, had - 1))
			return 1;
	return had < 0;
}

static void delay(int64_t ns)
{
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	ns += until.tv_nsec;
	until.tv_sec += ns / 1000000000;
	until.tv_nsec = ns % 1000000000;
	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

/* enter begins a call. It returns CKR_OK if the call should reach the real
 * module, and otherwise the call's return value. */
static CK_RV enter(int number)
{
	struct function *f = &control->functions[number];
	atomic_fetch_add(&control->in_flight, 1);
	if (atomic_load(&control->serial)) {
		pthread_mutex_lock(&turn);
		has_turn = 1;
	}
	atomic_fetch_add(&f->calls, 1);
	/* This order matters: the test clears the hang before it releases. */
	uint32_t released = atomic_load(&control->released);
	if (take(&f->hang))
		while (atomic_load(&control->released) == released)
			futex_wait(&control->released, released);
	if (atomic_load(&f->delay) > 0)
		delay(atomic_load(&f->delay));
	if (take(&f->crash))
		abort();
	return take(&f->fail) ? (CK_RV)atomic_load(&f->code) : CKR_OK;
}

static CK_RV leave(CK_RV rv)
{
	if (has_turn) {
		has_turn = 0;
		pthread_mutex_unlock(&turn);
	}
	atomic_fetch_sub(&control->in_flight, 1);
	return rv;
}

/* spoil applies the faults to the output of a call. */
static void spoil(int number, CK_RV rv, CK_BYTE_PTR out, CK_ULONG_PTR len)
{
	struct function *f = &control->functions[number];
	if (rv != CKR_OK || len == NULL)
		return;
	if (out == NULL) { /* a query for the length has no output */
		if (take(&f->mislead))
			*len = (CK_ULONG)f->promise;
		return;
	}
	if (take(&f->fill))
		for (CK_ULONG i = 0; i < *len; i++)
			out[i] = (CK_BYTE)(f->first + (int64_t)i * f->step);
	if (*len > 0 && take(&f->flip))
		out[*len - 1] ^= 1;
	if (*len > 0 && take(&f->cut))
		*len -= 1;
	if (take(&f->lie))
		*len = (CK_ULONG)f->length;
}

static void spoil_all(int number, CK_RV rv, CK_ATTRIBUTE_PTR a, CK_ULONG n)
{
	for (CK_ULONG i = 0; i < n; i++)
		spoil(number, rv, a[i].pValue, &a[i].ulValueLen);
}

#define INPUT_HANDLE (-1) /* the handle that was passed to the call */

/* swap replaces the handles that a call returns by those that the test set, or
 * by those of the previous call. */
static void swap(int number, CK_RV rv, CK_ULONG input, CK_ULONG_PTR first, CK_ULONG_PTR second)
{
	struct function *f = &control->functions[number];
	CK_ULONG_PTR out[] = {first, second};
	if (rv != CKR_OK)
		return;
	int swaps = take(&f->swap), repeats = f->last[0] != 0 && take(&f->repeat);
	for (int i = 0; i < 2 && out[i] != NULL; i++) {
		CK_ULONG made = *out[i];
		if (swaps && f->other[i] != 0)
			*out[i] = f->other[i] == INPUT_HANDLE ? input : (CK_ULONG)f->other[i];
		if (repeats)
			*out[i] = (CK_ULONG)f->last[i];
		f->last[i] = (int64_t)made;
	}
}

/* misfind applies the faults to a page of C_FindObjects: a wrong object, one
 * object twice, or a wrong number of objects. */
static void misfind(CK_RV rv, CK_OBJECT_HANDLE_PTR found, CK_ULONG room, CK_ULONG_PTR n)
{
	struct function *f = &control->functions[FN_C_FindObjects];
	if (rv != CKR_OK || *n == 0)
		return; /* an empty page ends every search */
	if (take(&f->swap))
		found[0] = (CK_OBJECT_HANDLE)f->other[0];
	if (*n < room && take(&f->repeat)) {
		found[*n] = found[*n - 1];
		++*n;
	}
	if (take(&f->lie))
		*n = (CK_ULONG)f->length;
}

static int is_hidden(CK_MECHANISM_TYPE m)
{
	for (int i = 0; i < 64 && control->hidden[i] != 0; i++)
		if ((CK_MECHANISM_TYPE)(control->hidden[i] - 1) == m)
			return 1;
	return 0;
}

static CK_RV refuse(CK_MECHANISM_PTR m)
{
	return m != NULL && is_hidden(m->mechanism) ? CKR_MECHANISM_INVALID : CKR_OK;
}

/* CALL defines a function. Unless a fault prevents the call, it runs body, which sets rv. */
#define CALL(name, parameters, body)               \
	CK_RV name parameters                          \
	{                                              \
		CK_RV rv = enter(FN_##name);               \
		if (rv != CKR_OK)                          \
			return leave(rv);                      \
		pthread_rwlock_rdlock(&calls);             \
		body;                                      \
		pthread_rwlock_unlock(&calls);             \
		return leave(rv);                          \
	}

#define FORWARD(name, parameters, ...) CALL(name, parameters, rv = real->name(__VA_ARGS__))

/* BEGINNING forwards a function that begins the use of mechanism m. */
#define BEGINNING(name, m, parameters, ...) \
	CALL(name, parameters, if ((rv = refuse(m)) == CKR_OK) rv = real->name(__VA_ARGS__))

/* GIVING forwards a function whose output is len bytes at out. */
#define GIVING(name, out, len, parameters, ...) \
	CALL(name, parameters, rv = real->name(__VA_ARGS__); spoil(FN_##name, rv, out, len))

/* ALONE forwards a function that must not be called while another call is in flight. */
#define ALONE(name, parameters, ...)                   \
	CALL(name, parameters,                             \
		if (atomic_load(&control->in_flight) > 1)      \
			atomic_fetch_add(&control->collisions, 1); \
		if ((rv = real->name(__VA_ARGS__)) == CKR_OK)  \
			atomic_store(&control->sessions, 0))

typedef CK_SESSION_HANDLE H;
typedef CK_OBJECT_HANDLE O;
typedef CK_BYTE_PTR B;
typedef CK_ULONG N;
typedef CK_ULONG_PTR NP;
typedef CK_ATTRIBUTE_PTR A;
typedef CK_MECHANISM_PTR M;

FORWARD(C_Initialize, (CK_VOID_PTR a), a)
ALONE(C_Finalize, (CK_VOID_PTR a), a)
FORWARD(C_GetInfo, (CK_INFO_PTR a), a)
CALL(C_GetSlotList, (CK_BBOOL a, CK_SLOT_ID_PTR b, NP c),
	rv = real->C_GetSlotList(a, b, c);
	for (CK_ULONG i = 0; rv == CKR_OK && b != NULL && control->backwards && i < *c / 2; i++) {
		CK_SLOT_ID other = b[*c - 1 - i];
		b[*c - 1 - i] = b[i];
		b[i] = other;
	})
FORWARD(C_GetSlotInfo, (CK_SLOT_ID a, CK_SLOT_INFO_PTR b), a, b)
CALL(C_GetTokenInfo, (CK_SLOT_ID a, CK_TOKEN_INFO_PTR b),
	if (control->bad_slot == (int64_t)a + 1)
		rv = (CK_RV)control->bad_slot_code;
	else if ((rv = real->C_GetTokenInfo(a, b)) == CKR_OK) {
		b->flags = (b->flags | (CK_FLAGS)control->token_flags) & ~(CK_FLAGS)control->lost_flags;
		if (control->max_sessions > 0)
			b->ulMaxSessionCount = b->ulMaxRwSessionCount = (CK_ULONG)control->max_sessions;
	})

static CK_RV visible(CK_SLOT_ID id, CK_MECHANISM_TYPE_PTR list, NP count)
{
	CK_MECHANISM_TYPE all[1024];
	CK_ULONG n = 1024, left = 0;
	CK_RV rv = real->C_GetMechanismList(id, all, &n);
	if (rv != CKR_OK)
		return rv;
	for (CK_ULONG i = 0; i < n; i++)
		if (!is_hidden(all[i]))
			all[left++] = all[i];
	if (list != NULL && *count < left)
		rv = CKR_BUFFER_TOO_SMALL;
	else if (list != NULL)
		memcpy(list, all, left * sizeof *all);
	*count = left;
	return rv;
}

CALL(C_GetMechanismList, (CK_SLOT_ID a, CK_MECHANISM_TYPE_PTR b, NP c), rv = visible(a, b, c))
CALL(C_GetMechanismInfo, (CK_SLOT_ID a, CK_MECHANISM_TYPE b, CK_MECHANISM_INFO_PTR c),
	rv = is_hidden(b) ? CKR_MECHANISM_INVALID : real->C_GetMechanismInfo(a, b, c))
FORWARD(C_InitToken, (CK_SLOT_ID a, B b, N c, CK_UTF8CHAR_PTR d), a, b, c, d)
FORWARD(C_InitPIN, (H a, B b, N c), a, b, c)
FORWARD(C_SetPIN, (H a, B b, N c, B d, N e), a, b, c, d, e)
CALL(C_OpenSession, (CK_SLOT_ID a, CK_FLAGS b, CK_VOID_PTR c, CK_NOTIFY d, CK_SESSION_HANDLE_PTR e),
	if ((rv = real->C_OpenSession(a, b, c, d, e)) == CKR_OK) {
		atomic_store(&slot, a);
		atomic_fetch_add(&control->sessions, 1);
		swap(FN_C_OpenSession, rv, 0, e, NULL);
	})
CALL(C_CloseSession, (H a),
	if ((rv = real->C_CloseSession(a)) == CKR_OK)
		atomic_fetch_sub(&control->sessions, 1))
ALONE(C_CloseAllSessions, (CK_SLOT_ID a), a)
FORWARD(C_GetSessionInfo, (H a, CK_SESSION_INFO_PTR b), a, b)
FORWARD(C_GetOperationState, (H a, B b, NP c), a, b, c)
FORWARD(C_SetOperationState, (H a, B b, N c, O d, O e), a, b, c, d, e)
FORWARD(C_Login, (H a, CK_USER_TYPE b, B c, N d), a, b, c, d)
FORWARD(C_Logout, (H a), a)
FORWARD(C_CreateObject, (H a, A b, N c, CK_OBJECT_HANDLE_PTR d), a, b, c, d)
CALL(C_CopyObject, (H a, O b, A c, N d, CK_OBJECT_HANDLE_PTR e),
	rv = real->C_CopyObject(a, b, c, d, e); swap(FN_C_CopyObject, rv, b, e, NULL))
FORWARD(C_DestroyObject, (H a, O b), a, b)
FORWARD(C_GetObjectSize, (H a, O b, NP c), a, b, c)
CALL(C_GetAttributeValue, (H a, O b, A c, N d),
	rv = real->C_GetAttributeValue(a, b, c, d); spoil_all(FN_C_GetAttributeValue, rv, c, d))
FORWARD(C_SetAttributeValue, (H a, O b, A c, N d), a, b, c, d)
FORWARD(C_FindObjectsInit, (H a, A b, N c), a, b, c)
CALL(C_FindObjects, (H a, CK_OBJECT_HANDLE_PTR b, N c, NP d),
	rv = real->C_FindObjects(a, b, c, d); misfind(rv, b, c, d))
FORWARD(C_FindObjectsFinal, (H a), a)
BEGINNING(C_EncryptInit, b, (H a, M b, O c), a, b, c)
GIVING(C_Encrypt, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
GIVING(C_EncryptUpdate, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
GIVING(C_EncryptFinal, b, c, (H a, B b, NP c), a, b, c)
BEGINNING(C_DecryptInit, b, (H a, M b, O c), a, b, c)
GIVING(C_Decrypt, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
GIVING(C_DecryptUpdate, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
GIVING(C_DecryptFinal, b, c, (H a, B b, NP c), a, b, c)
BEGINNING(C_DigestInit, b, (H a, M b), a, b)
GIVING(C_Digest, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
FORWARD(C_DigestUpdate, (H a, B b, N c), a, b, c)
FORWARD(C_DigestKey, (H a, O b), a, b)
GIVING(C_DigestFinal, b, c, (H a, B b, NP c), a, b, c)
BEGINNING(C_SignInit, b, (H a, M b, O c), a, b, c)
GIVING(C_Sign, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
FORWARD(C_SignUpdate, (H a, B b, N c), a, b, c)
GIVING(C_SignFinal, b, c, (H a, B b, NP c), a, b, c)
BEGINNING(C_SignRecoverInit, b, (H a, M b, O c), a, b, c)
GIVING(C_SignRecover, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
BEGINNING(C_VerifyInit, b, (H a, M b, O c), a, b, c)
FORWARD(C_Verify, (H a, B b, N c, B d, N e), a, b, c, d, e)
FORWARD(C_VerifyUpdate, (H a, B b, N c), a, b, c)
FORWARD(C_VerifyFinal, (H a, B b, N c), a, b, c)
BEGINNING(C_VerifyRecoverInit, b, (H a, M b, O c), a, b, c)
GIVING(C_VerifyRecover, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
GIVING(C_DigestEncryptUpdate, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
GIVING(C_DecryptDigestUpdate, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
GIVING(C_SignEncryptUpdate, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
GIVING(C_DecryptVerifyUpdate, d, e, (H a, B b, N c, B d, NP e), a, b, c, d, e)
BEGINNING(C_GenerateKey, b, (H a, M b, A c, N d, CK_OBJECT_HANDLE_PTR e), a, b, c, d, e)
CALL(C_GenerateKeyPair, (H a, M b, A c, N d, A e, N f, CK_OBJECT_HANDLE_PTR g, CK_OBJECT_HANDLE_PTR h),
	if ((rv = refuse(b)) == CKR_OK)
		rv = real->C_GenerateKeyPair(a, b, c, d, e, f, g, h);
	swap(FN_C_GenerateKeyPair, rv, 0, g, h))
GIVING(C_WrapKey, e, f, (H a, M b, O c, O d, B e, NP f), a, b, c, d, e, f)
BEGINNING(C_UnwrapKey, b, (H a, M b, O c, B d, N e, A f, N g, CK_OBJECT_HANDLE_PTR h), a, b, c, d, e, f, g, h)
BEGINNING(C_DeriveKey, b, (H a, M b, O c, A d, N e, CK_OBJECT_HANDLE_PTR f), a, b, c, d, e, f)
FORWARD(C_SeedRandom, (H a, B b, N c), a, b, c)
GIVING(C_GenerateRandom, b, &c, (H a, B b, N c), a, b, c)
FORWARD(C_GetFunctionStatus, (H a), a)
FORWARD(C_CancelFunction, (H a), a)
FORWARD(C_WaitForSlotEvent, (CK_FLAGS a, CK_SLOT_ID_PTR b, CK_VOID_PTR c), a, b, c)

static CK_RV close_sessions(void)
{
	CK_RV rv = real->C_CloseAllSessions(slot);
	if (rv == CKR_OK)
		control->sessions = 0;
	return rv;
}

static CK_RV logout(void)
{
	CK_SESSION_HANDLE s;
	CK_RV rv = real->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &s);
	if (rv != CKR_OK)
		return rv;
	rv = real->C_Logout(s);
	real->C_CloseSession(s);
	return rv;
}

static CK_RV reinitialize(void)
{
	CK_C_INITIALIZE_ARGS locking = {.flags = CKF_OS_LOCKING_OK};
	CK_RV rv = real->C_Finalize(NULL);
	if (rv != CKR_OK)
		return rv;
	control->sessions = 0;
	return real->C_Initialize(&locking);
}

static CK_RV act(int64_t action)
{
	switch (action) {
	case CLOSE_SESSIONS: return close_sessions();
	case LOGOUT:         return logout();
	case REINITIALIZE:   return reinitialize();
	}
	return CKR_ARGUMENTS_BAD;
}

/* serve acts on the real module at the test's request, while no call is in flight. */
static void *serve(void *unused)
{
	(void)unused;
	for (;;) {
		uint32_t request = atomic_load(&control->request);
		if (request == atomic_load(&control->done)) {
			futex_wait(&control->request, request);
			continue;
		}
		if (control->action == QUIT)
			return NULL;
		pthread_rwlock_wrlock(&calls);
		control->result = (int64_t)act(control->action);
		pthread_rwlock_unlock(&calls);
		atomic_store(&control->done, request);
		futex_wake(&control->done);
	}
}

static int start_serving(void)
{
	pthread_rwlockattr_t writers_first;
	pthread_rwlockattr_init(&writers_first);
	pthread_rwlockattr_setkind_np(&writers_first, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&calls, &writers_first);

	/* The process's other threads must handle the signals. */
	sigset_t all, before;
	pthread_t thread;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int failed = pthread_create(&thread, NULL, serve, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return failed;
}

static const char *map_control(void)
{
	Dl_info self;
	char path[4096];
	if (!dladdr((void *)map_control, &self))
		return "cannot find its path";
	snprintf(path, sizeof path, "%s.control", self.dli_fname);
	int fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return "cannot open its control file";
	control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (control == MAP_FAILED)
		return "cannot map its control file";
	return control->size == sizeof *control ? NULL : "its control file has another layout";
}

static const char *broken;

static void load(void)
{
	if ((broken = map_control()) != NULL)
		return;
	void *module = dlopen(control->real, RTLD_NOW);
	CK_C_GetFunctionList list = module == NULL ? NULL : (CK_C_GetFunctionList)dlsym(module, "C_GetFunctionList");
	if (list == NULL || list(&real) != CKR_OK)
		broken = "cannot load the real module";
	else if (start_serving() != 0)
		broken = "cannot start a thread";
}

static CK_FUNCTION_LIST ours = {
	{2, 40},
#define CK_PKCS11_FUNCTION_INFO(name) name,
#include "pkcs11f.h"
#undef CK_PKCS11_FUNCTION_INFO
};

__attribute__((visibility("default"))) CK_RV C_GetFunctionList(CK_FUNCTION_LIST_PTR_PTR list)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, load);
	if (broken != NULL) {
		fprintf(stderr, "fault injection module: %s\n", broken);
		return CKR_GENERAL_ERROR;
	}
	*list = &ours;
	return CKR_OK;
}
