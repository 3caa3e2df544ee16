//! A sequence of 64-bit numbers: each less the least of all or less the one before, in byte planes.

use super::super::Damage;
use super::super::take::{Take, put_zigzag};
use super::WHAT;
use super::streams::{Pack, Unpack};

const DELTA: u8 = 0x10;
const SHIFTED: u8 = 0x20;

fn zigzag(value: u64) -> u64 {
    let value = value as i64;
    ((value << 1) ^ (value >> 63)) as u64
}

fn unzigzag(value: u64) -> u64 {
    (value >> 1) ^ (value & 1).wrapping_neg()
}

/// How a sequence looks in planes.
#[derive(Clone, Copy)]
struct Layout {
    planes: u32,
    /// Low bits that are zero in all of them.
    shift: u32,
}

impl Layout {
    fn of(residuals: impl Iterator<Item = u64>) -> Layout {
        let all = residuals.fold(0, |all, residual| all | residual);
        if all == 0 {
            return Layout { planes: 0, shift: 0 };
        }
        let shift = all.trailing_zeros();
        Layout { planes: (all >> shift).ilog2() / 8 + 1, shift }
    }

    fn planes(self, residuals: impl Iterator<Item = u64> + Clone) -> Vec<Vec<u8>> {
        let plane = |number: u32| {
            let shift = self.shift + 8 * number;
            residuals.clone().map(|residual| (residual >> shift) as u8).collect()
        };
        (0..self.planes).map(plane).collect()
    }
}

/// About how many bits the planes take, by how often each byte is in each of them.
fn cost(planes: &[Vec<u8>]) -> f64 {
    let of_plane = |plane: &Vec<u8>| {
        let mut counts = [0u32; 256];
        for byte in plane {
            if let Some(count) = counts.get_mut(usize::from(*byte)) {
                *count += 1;
            }
        }
        let some = counts.iter().filter(|count| **count > 0).map(|count| f64::from(*count));
        let total = plane.len() as f64;
        some.map(|count| count * (total / count).log2()).sum::<f64>()
    };
    planes.iter().map(of_plane).sum()
}

/// Appends a sequence. Its length is not told: the reader asks for as many as there are.
pub(super) fn put(values: impl Iterator<Item = u64> + Clone, pack: &mut Pack) {
    let Some(first) = values.clone().next() else {
        pack.meta.extend_from_slice(&[0, 0]);
        return;
    };
    let least = values.clone().fold(first as i64, |least, value| least.min(value as i64)) as u64;
    let offsets = values.clone().map(|value| value.wrapping_sub(least));
    let deltas = values.scan(first, |previous, value| {
        let delta = value.wrapping_sub(*previous);
        *previous = value;
        Some(zigzag(delta))
    });
    let mut layout = Layout::of(offsets.clone());
    let mut planes = layout.planes(offsets);
    let mut mode = 0;
    if layout.planes > 0 {
        let other = Layout::of(deltas.clone());
        let others = other.planes(deltas);
        if cost(&others) < cost(&planes) {
            (layout, planes, mode) = (other, others, DELTA);
        }
    }
    if layout.shift > 0 {
        mode |= SHIFTED;
    }
    pack.meta.push(layout.planes as u8 | mode);
    if layout.shift > 0 {
        pack.meta.push(layout.shift as u8);
    }
    put_zigzag(&mut pack.meta, if mode & DELTA != 0 { first } else { least } as i64);
    planes.into_iter().for_each(|plane| pack.push(plane));
}

/// A sequence that is read back.
pub(super) struct Numbers {
    planes: Vec<Vec<u8>>,
    at: usize,
    /// The least of all, or the one before.
    base: u64,
    delta: bool,
    shift: u32,
}

impl Numbers {
    pub(super) fn read(meta: &mut Take<'_>, unpack: &mut Unpack) -> Result<Numbers, Damage> {
        let mode = meta.u8()?;
        let count = mode & 0x0F;
        let shift = if mode & SHIFTED != 0 { u32::from(meta.u8()?) } else { 0 };
        if mode & !(0x0F | DELTA | SHIFTED) != 0 || count > 8 || shift > 63 {
            return Err(meta.malformed());
        }
        let base = meta.zigzag()? as u64;
        let planes = (0..count).map(|_| unpack.next()).collect::<Result<_, _>>()?;
        Ok(Numbers { planes, at: 0, base, delta: mode & DELTA != 0, shift })
    }

    #[inline]
    pub(super) fn next(&mut self) -> Result<u64, Damage> {
        // Most are always the same.
        if self.planes.is_empty() { Ok(self.base) } else { self.next_of_planes() }
    }

    fn next_of_planes(&mut self) -> Result<u64, Damage> {
        let mut residual = 0u64;
        for (number, plane) in self.planes.iter().enumerate() {
            let byte = plane.get(self.at).ok_or(Damage::Short(WHAT))?;
            residual |= u64::from(*byte) << (8 * number);
        }
        self.at += 1;
        let residual = residual << self.shift;
        if !self.delta {
            return Ok(self.base.wrapping_add(residual));
        }
        self.base = self.base.wrapping_add(unzigzag(residual));
        Ok(self.base)
    }

    pub(super) fn next_byte(&mut self) -> Result<u8, Damage> {
        u8::try_from(self.next()?).map_err(|_| Damage::Malformed(WHAT))
    }

    pub(super) fn next_usize(&mut self) -> Result<usize, Damage> {
        usize::try_from(self.next()?).map_err(|_| Damage::Malformed(WHAT))
    }
}
