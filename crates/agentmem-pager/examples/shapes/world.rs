//! The shapes that one thread holds.

use crate::pattern::{Rng, fold, noise};
use crate::region::{Region, Wrong};
use crate::{crowd, files, heap, jit, memory, relatives, special};

/// One way of using memory.
pub trait Shape {
    /// As `wrong` and `places` name it.
    fn name(&self) -> &'static str;

    /// Regions to check, digest and list, where the shape has no own way to.
    fn regions(&self) -> Vec<&Region> {
        Vec::new()
    }

    /// Changes something, the way programs do.
    fn mutate(&mut self, rng: &mut Rng) -> Result<(), Wrong>;

    fn check(&mut self) -> Result<(), Wrong> {
        self.regions().into_iter().try_for_each(Region::check)
    }

    /// Of what should be there: the same for the same seed and commands, whatever the addresses.
    fn digest(&self) -> u64 {
        self.regions().into_iter().fold(0, |digest, region| fold(digest, region.digest()))
    }

    /// Where checked memory is, in this process unless another one is named.
    fn places(&self) -> Vec<Place> {
        self.regions().into_iter().map(|region| Place::here(region.at as usize, region.bytes())).collect()
    }

    /// In a forked child. False: the shape cannot be held by two.
    fn forked(&mut self) -> bool {
        true
    }
}

/// Checked memory.
#[derive(Clone)]
pub struct Place {
    pub pid: u32,
    pub name: String,
    pub at: usize,
    pub len: usize,
}

impl Place {
    pub fn here(at: usize, len: usize) -> Self {
        Place { pid: std::process::id(), name: String::new(), at, len }
    }

    pub fn within(mut self, name: &str) -> Self {
        self.name = if self.name.is_empty() { name.to_owned() } else { format!("{name}/{}", self.name) };
        self
    }
}

/// Places that a shape lists at most: a line has to stay a line.
const PLACES: usize = 8;

/// Whose world it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A process of several: has what a process can have once, and memory shared with a forked child.
    Parent,
    /// A process: has what a process can have once.
    Process,
    Thread,
}

pub struct World {
    shapes: Vec<Box<dyn Shape>>,
    rng: Rng,
}

impl World {
    /// All shapes in about `pages` pages.
    pub fn new(seed: u64, pages: usize, owner: Owner) -> Self {
        let mut rng = Rng::new(seed);
        let mut makers: Vec<Maker> = memory::makers();
        makers.extend(special::makers());
        makers.extend(files::makers());
        makers.extend(relatives::makers(owner));
        makers.extend(jit::makers());
        makers.extend(heap::makers(owner));
        makers.extend(crowd::makers());
        let make = |(index, (part, maker)): (usize, Maker)| {
            let pages = (pages * part / 1000).max(4);
            maker(&mut rng, pages, noise(seed, index as u64))
        };
        World::of(makers.into_iter().enumerate().map(make).collect(), seed)
    }

    pub fn of(shapes: Vec<Box<dyn Shape>>, seed: u64) -> Self {
        World { shapes, rng: Rng::new(!seed) }
    }

    pub fn step(&mut self, steps: usize) -> Result<(), Wrong> {
        for _ in 0..steps {
            let index = self.rng.below(self.shapes.len());
            let shape = &mut self.shapes[index];
            shape.mutate(&mut self.rng).map_err(|wrong| wrong.within(shape.name()))?;
        }
        Ok(())
    }

    pub fn check(&mut self) -> Result<(), Wrong> {
        self.shapes.iter_mut().try_for_each(|shape| shape.check().map_err(|wrong| wrong.within(shape.name())))
    }

    pub fn digest(&self) -> u64 {
        self.shapes.iter().fold(0, |digest, shape| fold(digest, shape.digest()))
    }

    pub fn places(&self) -> Vec<Place> {
        let list = |shape: &dyn Shape| {
            let places = shape.places();
            let stride = places.len().div_ceil(PLACES).max(1);
            places.into_iter().step_by(stride).map(|place| place.within(shape.name())).collect::<Vec<_>>()
        };
        self.shapes.iter().flat_map(|shape| list(shape.as_ref())).collect()
    }

    /// In a forked child: the same memory, and from here on a life of its own.
    pub fn forked(&mut self, seed: u64) {
        self.shapes.retain_mut(|shape| shape.forked());
        self.rng = Rng::new(seed);
    }
}

/// Makes the shape of so many pages with that key.
pub type Make = fn(&mut Rng, usize, u64) -> Box<dyn Shape>;

/// The share of memory in thousandths, and what makes the shape of it.
pub type Maker = (usize, Make);
