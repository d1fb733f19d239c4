//! The registers of a thread: all that knows the processor (x86-64).

use crate::sys::Registers;

/// The instruction that enters the kernel.
pub const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// Bytes below the stack pointer that belong to the running function.
const RED_ZONE_BYTES: u64 = 128;

/// A system call: its number and its first three arguments.
pub type Call = (u64, [u64; 3]);

/// The system call that the thread was in when it stopped, if it was in one.
pub fn interrupted(registers: &Registers) -> Option<Call> {
    let arguments = [registers.rdi, registers.rsi, registers.rdx];
    (registers.orig_rax as i64 >= 0).then_some((registers.orig_rax, arguments))
}

/// What makes a thread at `instruction` (a [`SYSCALL`]) call `number`.
pub fn calling(registers: &Registers, instruction: u64, number: i64, arguments: [u64; 6]) -> Registers {
    let mut set = *registers;
    set.rip = instruction;
    set.rax = number as u64;
    // In no system call: nothing of the interrupted one is to be restarted yet.
    set.orig_rax = u64::MAX;
    [set.rdi, set.rsi, set.rdx, set.r10, set.r8, set.r9] = arguments;
    set
}

/// What the call returned: negative is an error number.
pub fn result(registers: &Registers) -> i64 {
    registers.rax as i64
}

/// Where `len` bytes may be written that the thread does not use.
pub fn scratch(registers: &Registers, len: u64) -> u64 {
    (registers.rsp - RED_ZONE_BYTES - len) & !15
}
