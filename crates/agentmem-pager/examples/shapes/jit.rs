//! Code made at run time: pages of functions, which are compared, called, and made anew.

use crate::world::Maker;

#[cfg(not(target_arch = "x86_64"))]
pub fn makers() -> Vec<Maker> {
    Vec::new()
}

#[cfg(target_arch = "x86_64")]
pub fn makers() -> Vec<Maker> {
    use functions::Jit;
    use rustix::mm::{MprotectFlags, ProtFlags};
    vec![
        (10, |rng, pages, key| Box::new(Jit::new("jit", rng, pages, key, ProtFlags::all(), None))),
        (10, |rng, pages, key| {
            let at_rest = MprotectFlags::READ | MprotectFlags::EXEC;
            Box::new(Jit::new("jit-sealed", rng, pages, key, crate::region::READ_WRITE, Some(at_rest)))
        }),
    ]
}

#[cfg(target_arch = "x86_64")]
mod functions {
    use crate::pattern::{PAGE, Rng, fold, noise};
    use crate::region::{Mapping, Region, Wrong, compare};
    use crate::world::Shape;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};

    /// Bytes of a function.
    const SLOT: usize = 32;

    pub struct Jit {
        name: &'static str,
        code: Mapping,
        /// Per page, how often it was made.
        generations: Vec<u64>,
        /// Rights between two changes, where they are others than for writing.
        at_rest: Option<MprotectFlags>,
    }

    impl Jit {
        pub fn new(
            name: &'static str,
            rng: &mut Rng,
            pages: usize,
            key: u64,
            rights: ProtFlags,
            at_rest: Option<MprotectFlags>,
        ) -> Self {
            let code = Mapping::with(pages, key, rights, MapFlags::PRIVATE);
            let mut jit = Jit { name, code, generations: vec![0; pages], at_rest };
            (0..pages).for_each(|page| jit.generate(page));
            jit.call(rng.below(pages)).expect("new code is all right");
            jit
        }

        /// What the functions of `slot` and `page` compute with.
        fn constants(&self, page: usize, slot: usize) -> (u64, u64) {
            let key = noise(self.code.key.wrapping_add(self.generations[page]), page as u64);
            (noise(key, 2 * slot as u64), noise(key, 2 * slot as u64 + 1))
        }

        /// `(x ^ a) + b` as machine code.
        fn function(&self, page: usize, slot: usize) -> [u8; SLOT] {
            let (a, b) = self.constants(page, slot);
            let mut code = [0xcc; SLOT];
            code[..5].copy_from_slice(&[0x48, 0x89, 0xf8, 0x48, 0xb9]); // mov rax, rdi; mov rcx,
            code[5..13].copy_from_slice(&a.to_le_bytes());
            code[13..18].copy_from_slice(&[0x48, 0x31, 0xc8, 0x48, 0xb9]); // xor rax, rcx; mov rcx,
            code[18..26].copy_from_slice(&b.to_le_bytes());
            code[26..30].copy_from_slice(&[0x48, 0x01, 0xc8, 0xc3]); // add rax, rcx; ret
            code
        }

        fn page(&self, page: usize) -> Vec<u8> {
            (0..PAGE / SLOT).flat_map(|slot| self.function(page, slot)).collect()
        }

        fn generate(&mut self, page: usize) {
            if self.at_rest.is_some() {
                self.code.protect(page..page + 1, MprotectFlags::READ | MprotectFlags::WRITE);
            }
            self.generations[page] += 1;
            let code = self.page(page);
            // SAFETY: a writable page of this mapping.
            unsafe { self.code.page(page).copy_from_nonoverlapping(code.as_ptr(), PAGE) };
            if let Some(rights) = self.at_rest {
                self.code.protect(page..page + 1, rights);
            }
        }

        /// Compares the code first: calling damaged code tells less than naming it.
        fn call(&self, page: usize) -> Result<(), Wrong> {
            compare(self.code.page(page), &self.page(page))?;
            for slot in 0..PAGE / SLOT {
                let at = self.code.page(page).wrapping_add(slot * SLOT);
                // SAFETY: a whole function of this calling convention was just found there.
                let function: extern "sysv64" fn(u64) -> u64 = unsafe { std::mem::transmute(at) };
                let (a, b) = self.constants(page, slot);
                let (expected, got) = ((slot as u64 ^ a).wrapping_add(b), function(slot as u64));
                if got != expected {
                    return Err(Wrong::new(at as usize, expected, got));
                }
            }
            Ok(())
        }
    }

    impl Shape for Jit {
        fn name(&self) -> &'static str {
            self.name
        }

        /// To list; check and digest are of another kind than for data.
        fn regions(&self) -> Vec<&Region> {
            vec![&self.code]
        }

        fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong> {
            let page = rng.below(self.generations.len());
            self.generate(page);
            self.call(page)
        }

        fn check(&mut self) -> Result<(), Wrong> {
            (0..self.generations.len()).try_for_each(|page| self.call(page))
        }

        fn digest(&self) -> u64 {
            self.generations.iter().fold(self.code.key, |digest, generation| fold(digest, *generation))
        }
    }
}
