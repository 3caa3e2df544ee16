//! TOML with the line of everything, read to its end: all that is wrong is told at once.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::Fault;

/// What is wrong, by line.
pub(super) struct Reader {
    text: String,
    errors: Vec<(usize, String)>,
}

/// A table that is being read. What was not asked for when it is done is unknown.
pub(super) struct Section<'r, 't> {
    pub(super) reader: &'r mut Reader,
    table: &'t DeTable<'t>,
    asked: Vec<&'static str>,
    /// What it is, in words.
    what: String,
}

impl Reader {
    pub(super) fn new(text: &str) -> Reader {
        Reader { text: text.to_owned(), errors: Vec::new() }
    }

    pub(super) fn parse<'t>(&mut self, text: &'t str) -> Spanned<DeTable<'t>> {
        let (table, errors) = DeTable::parse_recoverable(text);
        for error in errors {
            // The error's own display quotes the line.
            let line = error.span().map_or(1, |span| self.line(&span));
            self.errors.push((line, error.message().trim_end().to_owned()));
        }
        table
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.get(..span.start).unwrap_or_default();
        before.matches('\n').count().saturating_add(1)
    }

    pub(super) fn wrong(&mut self, line: usize, what: impl Into<String>) {
        self.errors.push((line, what.into()));
    }

    pub(super) fn is_right(&self) -> bool {
        self.errors.is_empty()
    }

    /// All that is wrong, in the order of the lines.
    pub(super) fn end(mut self) -> Result<(), Fault> {
        self.errors.sort();
        self.errors.dedup();
        let lines: Vec<_> = self.errors.iter().map(|(line, what)| format!("line {line}: {what}")).collect();
        match lines.as_slice() {
            [] => Ok(()),
            [one] => Err(Fault::usage(one.clone()).hint(HINT)),
            all => Err(Fault::usage(format!("{} errors:\n  {}", all.len(), all.join("\n  "))).hint(HINT)),
        }
    }
}

const HINT: &str = "docs/RULES.md has all that rules can say";

/// Something with its line.
#[derive(Clone, Debug)]
pub(super) struct Lined<T> {
    pub(super) line: usize,
    pub(super) it: T,
}

impl<'r, 't> Section<'r, 't> {
    pub(super) fn new(reader: &'r mut Reader, table: &'t DeTable<'t>, what: impl Into<String>) -> Self {
        Section { reader, table, asked: Vec::new(), what: what.into() }
    }

    fn get(&mut self, key: &'static str) -> Option<(usize, &'t Spanned<DeValue<'t>>)> {
        self.asked.push(key);
        let (name, value) = self.table.iter().find(|(name, _)| name.get_ref() == key)?;
        Some((self.reader.line(&name.span()), value))
    }

    fn take<T>(
        &mut self,
        key: &'static str,
        wanted: &str,
        read: impl Fn(&'t DeValue<'t>) -> Option<T>,
    ) -> Option<Lined<T>> {
        let (line, value) = self.get(key)?;
        let read = read(value.get_ref());
        if read.is_none() {
            self.reader.wrong(line, format!("{key} wants {wanted}"));
        }
        read.map(|it| Lined { line, it })
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<Lined<String>> {
        self.take(key, "a text in quotes", |value| value.as_str().map(str::to_owned))
    }

    pub(super) fn flag(&mut self, key: &'static str) -> Option<Lined<bool>> {
        self.take(key, "true or false", DeValue::as_bool)
    }

    /// What is there and has to be `true`.
    pub(super) fn mark(&mut self, key: &'static str) -> Option<Lined<()>> {
        self.take(key, "true", |value| value.as_bool().filter(|is_set| *is_set).map(drop))
    }

    pub(super) fn count(&mut self, key: &'static str) -> Option<Lined<usize>> {
        self.take(key, "a number that is not negative", |value| {
            value.as_integer().filter(|number| number.radix() == 10)?.as_str().parse().ok()
        })
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Option<Lined<Vec<String>>> {
        self.take(key, "a list of texts", |value| {
            let items = value.as_array()?;
            items.iter().map(|item| item.get_ref().as_str().map(str::to_owned)).collect()
        })
    }

    /// The entries of a table in it, each with its line.
    pub(super) fn tables(&mut self, key: &'static str) -> Vec<(usize, &'t str, &'t DeTable<'t>)> {
        let Some((line, value)) = self.get(key) else { return Vec::new() };
        let Some(table) = value.get_ref().as_table() else {
            self.reader.wrong(line, format!("{key} wants sections, such as [{key}.\"name\"]"));
            return Vec::new();
        };
        let mut entries = Vec::new();
        for (name, value) in table.iter() {
            let line = self.reader.line(&name.span());
            match value.get_ref().as_table() {
                Some(table) => entries.push((line, name.get_ref().as_ref(), table)),
                None => self.reader.wrong(line, format!("{} wants a table, such as {{ … }}", name.get_ref())),
            }
        }
        entries
    }

    /// A table in it.
    pub(super) fn table(&mut self, key: &'static str) -> Option<Lined<&'t DeTable<'t>>> {
        self.take(key, "a table, such as { … }", DeValue::as_table)
    }

    /// What is left is unknown.
    pub(super) fn end(self) {
        for (name, _) in self.table.iter() {
            if !self.asked.iter().any(|asked| name.get_ref() == asked) {
                let line = self.reader.line(&name.span());
                let known = self.asked.join(", ");
                let what = format!("unknown key {} in {}; it may have: {known}", name.get_ref(), self.what);
                self.reader.wrong(line, what);
            }
        }
    }
}
