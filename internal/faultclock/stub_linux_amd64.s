#include "textflag.h"

// The stub is what a process executes in place of its vDSO's clock_gettime: it
// is copied there, with the addresses of its offsets and its counter in place of
// OFFSETS and COUNT. It is a C function of (DI: clock, SI: *timespec) that returns in
// AX: it may change AX, CX, DX and what the system call changes (CX, R11), and
// nothing else; it uses no stack and no address of its own.
//
// The bytes END mark where it ends.

#define SYS_clock_gettime 228
#define OFFSETS $0x1122334455667788 // offsetsMark
#define COUNT $0x2233445566778899   // countMark

TEXT ·stub(SB), NOSPLIT|NOFRAME, $0-0
	MOVL $SYS_clock_gettime, AX
	SYSCALL
	TESTL AX, AX
	JNE  done           // the error
	TESTL DI, DI
	JNE  done           // not CLOCK_REALTIME
	MOVQ OFFSETS, CX
	MOVBQZX (CX), AX    // which offset
	MOVQ 8(CX)(AX*8), AX // ns
	TESTQ AX, AX
	JEQ  done           // the truth
	MOVQ COUNT, CX
	LOCK
	INCQ (CX)
	ADDQ 8(SI), AX      // offset and nanoseconds together ...
	CQO
	MOVQ $1000000000, CX
	IDIVQ CX            // ... are AX s and DX ns, both rounded towards 0
	TESTQ DX, DX
	JGE  carry
	ADDQ CX, DX
	DECQ AX
carry:
	ADDQ AX, (SI)
	MOVQ DX, 8(SI)
	XORL AX, AX
done:
	RET
	LONG $0x646e6521    // endMark
	LONG $0x21656e64

// func stubCode() *byte
TEXT ·stubCode(SB), NOSPLIT, $0-8
	LEAQ ·stub(SB), AX
	MOVQ AX, ret+0(FP)
	RET
