//! A seccomp filter that ends the process if it is made to call what it never calls by itself.

use crate::Habit;
use crate::memory::checked;
use std::io;

fn statement(code: u32, k: u32) -> libc::sock_filter {
    libc::sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn install() -> io::Result<()> {
    let mut program = vec![statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0)];
    for number in [libc::SYS_userfaultfd, libc::SYS_madvise, libc::SYS_ioctl, libc::SYS_fcntl] {
        let equal = statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, number as u32);
        program.push(libc::sock_filter { jf: 1, ..equal });
        program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS));
    }
    program.push(statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW));
    let list = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: no pointers; then a list that lives for the call.
    unsafe {
        checked(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        checked(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const list).into())?;
    }
    Ok(())
}

/// Is under it from the start.
pub struct Filter;

impl Filter {
    pub fn new() -> io::Result<Self> {
        install().map(|()| Filter)
    }
}

impl Habit for Filter {
    /// It still ends who calls one of these.
    fn practise(&mut self) -> Result<(), String> {
        let mut status = 0;
        // SAFETY: the child makes two system calls and no more; the parent waits for it.
        unsafe {
            let child = libc::fork();
            if child == 0 {
                libc::syscall(libc::SYS_userfaultfd, 0);
                libc::_exit(0);
            }
            libc::waitpid(child, &mut status, 0);
        }
        match libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS {
            true => Ok(()),
            false => Err(format!("its filter has no effect any more: {status:#x}")),
        }
    }
}

/// Puts itself under one more each time.
pub struct Late;

impl Habit for Late {
    fn practise(&mut self) -> Result<(), String> {
        install().map_err(|error| error.to_string())?;
        Filter.practise()
    }
}
