//! One column of a relation's rows: what kind each value is of, and the values.

use super::super::Damage;
use super::super::take::{Take, put_block, put_varint};
use super::copies::Copies;
use super::field::{Digits, Format, MARK, NUMBERS_MAX, VALUE_BYTES_MAX, split};
use super::numbers::{self, Numbers};
use super::shape::{Cell, has_bytes};
use super::streams::{Pack, Unpack};
use super::{COLUMNS_MAX, WHAT};

/// More templates than that are no pattern.
const TEMPLATES_MAX: usize = 32;
/// Bytes that a value has which is taken as an integer.
const INTEGER_WIDTHS: std::ops::RangeInclusive<usize> = 1..=8;
/// A template of fewer values costs more than it saves.
const TEMPLATE_USES_MIN: usize = 8;
/// After so many values it is judged whether there are few templates enough.
const JUDGED_AFTER: usize = 128;

const COPIES: u8 = 1;
const TEMPLATES: u8 = 2;
const TEXT: u8 = 4;
const INTEGERS: u8 = 8;

#[derive(Default)]
pub(super) struct Column<'a> {
    kinds: Vec<u8>,
    /// Those that have bytes. Where they lie in the records tells which came first, also of two columns.
    pub(super) values: Vec<&'a [u8]>,
}

/// A template, and the numbers in its places for each value that it fits.
struct Template {
    text: Vec<u8>,
    uses: usize,
    places: Vec<Vec<Digits>>,
}

impl<'a> Column<'a> {
    pub(super) fn push(&mut self, cell: Cell<'a>) {
        self.kinds.push(cell.kind);
        self.values.extend(cell.value);
    }

    /// The length of all values where they are taken as integers: in binary form, and not the bytes of some text.
    fn integer_width(&self, values: &[&[u8]]) -> Option<u8> {
        let width = values.first()?.len();
        let is_binary = INTEGER_WIDTHS.contains(&width) && !self.kinds.contains(&b't');
        let is_alike = is_binary && values.iter().all(|value| value.len() == width);
        let is_text = |value: &&[u8]| value.iter().all(|byte| (b' '..=b'~').contains(byte));
        (is_alike && !values.iter().all(is_text)).then_some(width as u8)
    }

    pub(super) fn write(&self, copies: Option<&Copies>, pack: &mut Pack) {
        numbers::put(self.kinds.iter().copied().map(u64::from), pack);
        let hits = copies.map_or(&[][..], |copies| &copies.hits);
        let rest: Vec<&[u8]> = match copies {
            None => self.values.clone(),
            Some(_) => {
                self.values.iter().zip(hits).filter(|(_, hit)| !**hit).map(|(value, _)| *value).collect()
            }
        };
        let width = self.integer_width(&rest);
        let (templates, choices) = if width.is_some() { (Vec::new(), Vec::new()) } else { templates(&rest) };
        let text = || rest.iter().zip(&choices).filter(|(_, choice)| **choice == 0).map(|(value, _)| *value);
        let some_text = text().next().is_some();
        pack.meta.push(
            if copies.is_some() { COPIES } else { 0 }
                | if templates.is_empty() { 0 } else { TEMPLATES }
                | if width.is_some() { INTEGERS } else { 0 }
                | if some_text { TEXT } else { 0 },
        );
        if let Some(copies) = copies {
            put_varint(&mut pack.meta, copies.source as u64);
            let bits = hits
                .chunks(8)
                .map(|eight| eight.iter().rev().fold(0u64, |bits, hit| bits << 1 | u64::from(*hit)));
            numbers::put(bits, pack);
        }
        if !templates.is_empty() {
            put_varint(&mut pack.meta, templates.len() as u64);
            for (template, formats) in &templates {
                put_block(&mut pack.meta, &template.text);
                for (place, format) in template.places.iter().zip(formats) {
                    pack.meta.extend_from_slice(&format.code());
                    numbers::put(place.iter().map(|number| format.kept(*number)), pack);
                }
            }
            numbers::put(choices.iter().copied().map(u64::from), pack);
        }
        if let Some(width) = width {
            pack.meta.push(width);
            numbers::put(rest.iter().map(|value| integer(value)), pack);
        }
        if some_text {
            numbers::put(text().map(|value| value.len() as u64), pack);
            let mut bytes = Vec::with_capacity(text().map(<[u8]>::len).sum());
            text().for_each(|value| bytes.extend_from_slice(value));
            pack.push(bytes);
        }
    }
}

/// What bytes mean as a big-endian integer with a sign.
fn integer(bytes: &[u8]) -> u64 {
    let sign = bytes.first().map_or(0, |byte| if byte & 0x80 != 0 { u64::MAX } else { 0 });
    bytes.iter().fold(sign, |number, byte| number << 8 | u64::from(*byte))
}

/// The templates of a column with the formats of their places, and for each value the number of its template, from 1; 0 for
/// text.
fn templates(values: &[&[u8]]) -> (Vec<(Template, Vec<Format>)>, Vec<u8>) {
    let mut found: Vec<Template> = Vec::new();
    let mut choices = Vec::with_capacity(values.len());
    let (mut text, mut numbers, mut last) = (Vec::new(), Vec::new(), 0);
    let mut before = None;
    for (count, value) in values.iter().enumerate() {
        if count == JUDGED_AFTER && found.len() > JUDGED_AFTER / 8 {
            return (Vec::new(), vec![0; values.len()]);
        }
        if before != Some(*value) {
            before = split(value, &mut text, &mut numbers).then_some(*value);
        }
        if before.is_none() {
            choices.push(0);
            continue;
        }
        if found.get(last).is_none_or(|template| template.text != text) {
            last = found.iter().position(|template| template.text == text).unwrap_or(found.len());
        }
        if last == found.len() {
            if last == TEMPLATES_MAX {
                choices.push(0);
                continue;
            }
            found.push(Template { text: text.clone(), uses: 0, places: vec![Vec::new(); numbers.len()] });
        }
        if let Some(template) = found.get_mut(last) {
            template.uses += 1;
            template.places.iter_mut().zip(&numbers).for_each(|(place, number)| place.push(*number));
        }
        choices.push(last as u8 + 1);
    }
    let mut kept = Vec::new();
    let mut renumbered = vec![0u8];
    for template in found {
        let formats = if template.uses < TEMPLATE_USES_MIN { None } else { formats(&template) };
        renumbered.push(if formats.is_some() { kept.len() as u8 + 1 } else { 0 });
        kept.extend(formats.map(|formats| (template, formats)));
    }
    for choice in &mut choices {
        *choice = renumbered.get(usize::from(*choice)).copied().unwrap_or(0);
    }
    (kept, choices)
}

fn formats(template: &Template) -> Option<Vec<Format>> {
    let before = template.text.split(|byte| *byte == MARK);
    let places = template.places.iter().zip(before);
    places.map(|(place, before)| Format::of(place, before.last() == Some(&b'.'))).collect()
}

/// A column that is read back, value after value.
pub(super) struct ColumnReader {
    kinds: Numbers,
    copies: Option<Hits>,
    templates: Vec<Pattern>,
    choices: Option<Numbers>,
    text: Option<(Numbers, Vec<u8>)>,
    text_at: usize,
    integers: Option<(usize, Numbers)>,
}

/// Which values are another column's last.
struct Hits {
    source: usize,
    bits: Numbers,
    byte: u8,
    left: u8,
}

/// A template that is read back: the text before the first number, then each number with the text behind it.
struct Pattern {
    head: Vec<u8>,
    places: Vec<(Format, Numbers, Vec<u8>)>,
}

/// Where a value is to be had.
pub(super) enum Origin {
    /// It was written.
    Written,
    /// It is the last value of that column.
    Copy(usize),
}

impl ColumnReader {
    pub(super) fn read(meta: &mut Take<'_>, unpack: &mut Unpack) -> Result<ColumnReader, Damage> {
        let kinds = Numbers::read(meta, unpack)?;
        let parts = meta.u8()?;
        if parts & !(COPIES | TEMPLATES | TEXT | INTEGERS) != 0 {
            return Err(meta.malformed());
        }
        let mut column = ColumnReader {
            kinds,
            copies: None,
            templates: Vec::new(),
            choices: None,
            text: None,
            text_at: 0,
            integers: None,
        };
        if parts & COPIES != 0 {
            let source = meta.varint()?;
            let source = usize::try_from(source).ok().filter(|source| *source < COLUMNS_MAX);
            let source = source.ok_or(meta.malformed())?;
            column.copies = Some(Hits { source, bits: Numbers::read(meta, unpack)?, byte: 0, left: 0 });
        }
        if parts & TEMPLATES != 0 {
            let count = meta.count()?;
            if count > TEMPLATES_MAX {
                return Err(meta.malformed());
            }
            for _ in 0..count {
                column.templates.push(Pattern::read(meta, unpack)?);
            }
            column.choices = Some(Numbers::read(meta, unpack)?);
        }
        if parts & INTEGERS != 0 {
            let width = usize::from(meta.u8()?);
            if !INTEGER_WIDTHS.contains(&width) {
                return Err(meta.malformed());
            }
            column.integers = Some((width, Numbers::read(meta, unpack)?));
        }
        if parts & TEXT != 0 {
            column.text = Some((Numbers::read(meta, unpack)?, unpack.next()?));
        }
        Ok(column)
    }

    pub(super) fn source(&self) -> Option<usize> {
        self.copies.as_ref().map(|copies| copies.source)
    }

    /// The next cell's kind, which must be one.
    pub(super) fn kind(&mut self) -> Result<u8, Damage> {
        match self.kinds.next_byte()? {
            kind if has_bytes(kind) || matches!(kind, b'n' | b'u') => Ok(kind),
            _ => Err(Damage::Malformed(WHAT)),
        }
    }

    /// Appends the next value, unless it is a copy.
    pub(super) fn value(&mut self, out: &mut Vec<u8>) -> Result<Origin, Damage> {
        if let Some(copies) = &mut self.copies {
            if copies.left == 0 {
                copies.byte = copies.bits.next_byte()?;
                copies.left = 8;
            }
            let hit = copies.byte & 1 != 0;
            copies.byte >>= 1;
            copies.left -= 1;
            if hit {
                return Ok(Origin::Copy(copies.source));
            }
        }
        if let Some((width, numbers)) = &mut self.integers {
            let bytes = numbers.next()?.to_be_bytes();
            out.extend_from_slice(bytes.get(bytes.len() - *width..).unwrap_or_default());
            return Ok(Origin::Written);
        }
        let choice = match &mut self.choices {
            Some(choices) => choices.next_usize()?,
            None => 0,
        };
        if let Some(number) = choice.checked_sub(1) {
            self.templates.get_mut(number).ok_or(Damage::Malformed(WHAT))?.write(out)?;
        } else {
            let (lengths, text) = self.text.as_mut().ok_or(Damage::Short(WHAT))?;
            let length = lengths.next_usize()?;
            let value = text.get(self.text_at..).and_then(|rest| rest.get(..length));
            out.extend_from_slice(value.ok_or(Damage::Short(WHAT))?);
            self.text_at += length;
        }
        Ok(Origin::Written)
    }
}

impl Pattern {
    fn read(meta: &mut Take<'_>, unpack: &mut Unpack) -> Result<Pattern, Damage> {
        let template = meta.block()?;
        if template.len() > VALUE_BYTES_MAX
            || template.iter().filter(|byte| **byte == MARK).count() > NUMBERS_MAX
        {
            return Err(meta.malformed());
        }
        let mut literals = template.split(|byte| *byte == MARK);
        let head = literals.next().unwrap_or_default().to_vec();
        let mut places = Vec::new();
        for behind in literals {
            let format = Format::from_code(meta.array()?).ok_or(meta.malformed())?;
            places.push((format, Numbers::read(meta, unpack)?, behind.to_vec()));
        }
        Ok(Pattern { head, places })
    }

    fn write(&mut self, out: &mut Vec<u8>) -> Result<(), Damage> {
        out.extend_from_slice(&self.head);
        for (format, numbers, behind) in &mut self.places {
            format.write(numbers.next()?, out);
            out.extend_from_slice(behind);
        }
        Ok(())
    }
}
