//! The one seam to `/dev/agentmem`: calls of the kernel module, as `kernel/agentmem_uapi.h` has them.

#[cfg(feature = "faults")]
mod fake;

use crate::options::Options;
use crate::sys::{Mapping, PAGE_BYTES, injected};
use agentmem_core::{Backend, Error, ErrorKind, Kind, Result};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

const DEVICE: &str = "/dev/agentmem";
/// The oldest version of the calls that this understands; newer ones only add.
const VERSION_MIN: u32 = 1;

/// What the module knows of the next use of content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Nothing in particular.
    Normal = 0,
    /// To be brought back, and kept.
    Hot = 1,
    /// To be compressed now.
    Cold = 2,
    /// To be brought back, once.
    WillNeed = 3,
}

/// Where the module has content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Residence {
    /// Bytes of pages.
    pub resident_bytes: u64,
    /// Of these, of what was found not to shrink.
    pub raw_bytes: u64,
    /// Compressed bytes, which stay beside pages that came back.
    pub stored_bytes: u64,
    /// Agents of the module's that hold it.
    pub agents: u32,
}

impl Residence {
    /// RAM that it takes.
    pub fn ram_bytes(self) -> u64 {
        self.resident_bytes + self.stored_bytes
    }

    /// Whether every page that can be compressed is.
    pub fn is_compressed(self) -> bool {
        self.stored_bytes > 0 && self.resident_bytes <= self.raw_bytes
    }
}

#[repr(C)]
#[derive(Default)]
struct ApiArgs {
    version: u32,
    page_bytes: u32,
    features: u64,
    smu_bytes_max: u64,
    reserved: [u64; 5],
}

#[repr(C)]
#[derive(Default)]
struct AllocArgs {
    address: u64,
    len: u64,
    kind: u32,
    importance: u32,
    flags: u32,
    shared: u32,
    id: u64,
    digest: [u8; 32],
    reserved: [u64; 2],
}

#[repr(C)]
#[derive(Default)]
struct FreeArgs {
    id: u64,
    flags: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct AdviseArgs {
    id: u64,
    advice: u32,
    importance: u32,
    flags: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoArgs {
    id: u64,
    len: u64,
    resident_bytes: u64,
    slow_bytes: u64,
    stored_bytes: u64,
    raw_bytes: u64,
    kind: u32,
    importance: u32,
    advice: u32,
    leases: u32,
    agents: u32,
    flags: u32,
    digest: [u8; 32],
    reserved: [u64; 4],
}

#[repr(C)]
#[derive(Default)]
struct LendArgs {
    id: u64,
    flags: u32,
    fd: i32,
    reserved: [u64; 2],
}

/// Of [`ApiArgs::features`]: there is [`LEND`].
const FEATURE_LEND: u64 = 1 << 2;

/// The importance in [`AllocArgs`] is to be heeded.
const ALLOC_IMPORTANCE: u32 = 1;

const READ: u32 = 2 << 30;
const WRITE: u32 = 1 << 30;

/// A number of the module's calls, as `ioctl.h` makes it.
const fn request<Args>(direction: u32, number: u32) -> u32 {
    direction | (size_of::<Args>() as u32) << 16 | 0xE3 << 8 | number
}

const API: u32 = request::<ApiArgs>(READ, 0);
const ALLOC: u32 = request::<AllocArgs>(READ | WRITE, 2);
const FREE: u32 = request::<FreeArgs>(WRITE, 5);
const ADVISE: u32 = request::<AdviseArgs>(WRITE, 6);
const INFO: u32 = request::<InfoArgs>(READ | WRITE, 7);
const LEND: u32 = request::<LendArgs>(READ | WRITE, 9);

/// The open device: what is allocated through it is held until it is freed, or until this is closed.
#[derive(Debug)]
pub enum Device {
    /// The module's.
    Module {
        /// An agent of the module's.
        file: File,
        /// The longest content that it takes.
        content_bytes_max: u64,
    },
    /// What behaves like it, for tests.
    #[cfg(feature = "faults")]
    Fake(fake::Fake),
}

/// Refuses to open the device, and says what else can be done.
fn unavailable(kind: ErrorKind, what: impl std::fmt::Display) -> Error {
    let way_out = "load the module (docs/kernel.md), or open with backend=\"auto\" or \"user\"";
    Error::new(kind, format!("{DEVICE}: {what}: {way_out}"))
}

impl Device {
    /// The device that `options` want, if it is there; an error if they want nothing else. A journal cannot name what the
    /// module holds. And the module keeps equal contents of a user's once, so what one trust domain holds would show in
    /// what becomes of another's: so only the user's own has it.
    pub fn of(options: &Options) -> Result<Option<Self>> {
        if options.keeping.is_some() || !options.domain.is_empty() {
            return Ok(None);
        }
        #[cfg(feature = "faults")]
        if options.fakes_module {
            return Ok(Some(Device::Fake(fake::Fake::default())));
        }
        match options.backend {
            Backend::User => Ok(None),
            Backend::Kernel => Self::open(options.lends).map(Some),
            Backend::Auto => Ok(Self::open(options.lends).ok()),
        }
    }

    fn open(lends: bool) -> Result<Self> {
        let file = File::options().read(true).write(true).open(DEVICE).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => unavailable(ErrorKind::PermissionDenied, error),
            _ => unavailable(ErrorKind::Unsupported, error),
        })?;
        let mut api = ApiArgs::default();
        ask(&file, API, &mut api).map_err(|error| unavailable(ErrorKind::Unsupported, error))?;
        if api.version < VERSION_MIN || u64::from(api.page_bytes) != PAGE_BYTES {
            let what = format!("version {}, pages of {} bytes", api.version, api.page_bytes);
            return Err(unavailable(ErrorKind::Version, what));
        }
        if lends && api.features & FEATURE_LEND == 0 {
            return Err(unavailable(ErrorKind::Version, "a module that cannot lend what it holds to other processes"));
        }
        Ok(Device::Module { file, content_bytes_max: api.smu_bytes_max })
    }

    /// The longest content that it takes.
    pub fn content_bytes_max(&self) -> u64 {
        match self {
            Device::Module { content_bytes_max, .. } => *content_bytes_max,
            #[cfg(feature = "faults")]
            Device::Fake(_) => 1 << 30,
        }
    }

    /// A lease of `content`, which is copied: its id, and whether it was there already.
    pub fn alloc(&self, content: &[u8], kind: Kind, importance: u8) -> Result<(u64, bool)> {
        injected("AGENTMEM_IOC_ALLOC")?;
        match self {
            Device::Module { file, .. } => {
                let mut args = AllocArgs {
                    address: content.as_ptr() as u64,
                    len: content.len() as u64,
                    kind: kind as u32,
                    importance: importance.into(),
                    flags: ALLOC_IMPORTANCE,
                    ..AllocArgs::default()
                };
                ask(file, ALLOC, &mut args).map_err(|error| failed("AGENTMEM_IOC_ALLOC", error))?;
                Ok((args.id, args.shared != 0))
            }
            #[cfg(feature = "faults")]
            Device::Fake(fake) => Ok((fake.alloc(content)?, false)),
        }
    }

    /// The `len` bytes of `id`, which must be leased. What the module compresses comes back when it is read.
    pub fn map(&self, id: u64, len: usize) -> Result<Mapping> {
        match self {
            Device::Module { file, .. } => Mapping::readable(file, id * PAGE_BYTES, len),
            #[cfg(feature = "faults")]
            Device::Fake(fake) => fake.map(id, len),
        }
    }

    /// A descriptor by which another process can map `id`, which must be leased, from offset 0 on, and do nothing else.
    /// It keeps the content.
    pub fn lend(&self, id: u64) -> Result<OwnedFd> {
        injected("AGENTMEM_IOC_LEND")?;
        match self {
            Device::Module { file, .. } => {
                let mut args = LendArgs { id, ..LendArgs::default() };
                ask(file, LEND, &mut args).map_err(|error| failed("AGENTMEM_IOC_LEND", error))?;
                // SAFETY: it was just made for us, and nobody else owns it.
                Ok(unsafe { OwnedFd::from_raw_fd(args.fd) })
            }
            #[cfg(feature = "faults")]
            Device::Fake(fake) => fake.lend(id),
        }
    }

    /// Gives a lease back. Mappings keep the content.
    pub fn free(&self, id: u64) {
        match self {
            Device::Module { file, .. } => {
                // It fails for what was not leased, and for nothing else.
                let _ = ask(file, FREE, &mut FreeArgs { id, ..FreeArgs::default() });
            }
            #[cfg(feature = "faults")]
            Device::Fake(fake) => fake.free(id),
        }
    }

    /// Says what is known of the next use of `id`.
    pub fn mark(&self, id: u64, mark: Mark) -> Result<()> {
        injected("AGENTMEM_IOC_ADVISE")?;
        match self {
            Device::Module { file, .. } => {
                let mut args = AdviseArgs { id, advice: mark as u32, ..AdviseArgs::default() };
                ask(file, ADVISE, &mut args).map_err(|error| failed("AGENTMEM_IOC_ADVISE", error))
            }
            #[cfg(feature = "faults")]
            Device::Fake(fake) => {
                fake.mark(id, mark);
                Ok(())
            }
        }
    }

    /// Where `id` is now.
    pub fn residence(&self, id: u64) -> Result<Residence> {
        injected("AGENTMEM_IOC_INFO")?;
        match self {
            Device::Module { file, .. } => {
                let mut args = InfoArgs { id, ..InfoArgs::default() };
                ask(file, INFO, &mut args).map_err(|error| failed("AGENTMEM_IOC_INFO", error))?;
                let InfoArgs { resident_bytes, raw_bytes, stored_bytes, agents, .. } = args;
                Ok(Residence { resident_bytes, raw_bytes, stored_bytes, agents })
            }
            #[cfg(feature = "faults")]
            Device::Fake(fake) => Ok(fake.residence(id)),
        }
    }
}

fn failed(call: &str, error: io::Error) -> Error {
    let kind = match error.raw_os_error() {
        Some(libc::ENOMEM) => ErrorKind::OutOfMemory,
        Some(libc::EDQUOT | libc::EMFILE | libc::ENFILE) => ErrorKind::LimitReached,
        _ => ErrorKind::Io,
    };
    Error::new(kind, format!("{DEVICE}: {call}: {error}"))
}

fn ask<Args>(file: &File, request: u32, args: &mut Args) -> io::Result<()> {
    // SAFETY: `args` is what this request reads and writes, and lives through the call; its size is in the
    // number of the request. Content that it names is borrowed by the caller meanwhile, and only read.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), request as libc::Ioctl, args as *mut Args) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A program in C prints what the header of the module says.
    #[test]
    fn calls_have_the_numbers_of_the_modules_header() {
        let header = concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernel/agentmem_uapi.h");
        let folder = tempfile::tempdir().unwrap();
        let (source, program) = (folder.path().join("numbers.c"), folder.path().join("numbers"));
        let names = ["API", "ALLOC", "FREE", "ADVISE", "INFO", "LEND"];
        let print: String =
            names.iter().map(|name| format!("printf(\"%u \", (unsigned)AGENTMEM_IOC_{name});")).collect();
        let text = format!("#include <stdio.h>\n#include \"{header}\"\nint main(void) {{ {print} return 0; }}\n");
        std::fs::write(&source, text).unwrap();
        let built = std::process::Command::new("cc").arg("-o").args([&program, &source]).status().unwrap();
        assert!(built.success());
        let said = std::process::Command::new(&program).output().unwrap().stdout;
        let said: Vec<u32> = String::from_utf8(said).unwrap().split_whitespace().map(|n| n.parse().unwrap()).collect();
        assert_eq!(said, [API, ALLOC, FREE, ADVISE, INFO, LEND]);
    }

    #[test]
    fn what_is_compressed_but_for_what_does_not_shrink_counts_as_compressed() {
        let residence =
            |resident_bytes, raw_bytes, stored_bytes| Residence { resident_bytes, raw_bytes, stored_bytes, agents: 1 };
        assert!(residence(0, 0, 100).is_compressed());
        assert!(residence(65536, 65536, 100).is_compressed());
        assert!(!residence(65536, 65536, 0).is_compressed());
        assert!(!residence(65536, 0, 100).is_compressed());
    }
}
