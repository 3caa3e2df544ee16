//! The log's tables and changes as they are for this target, by its rules. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::archive::Manifest;
use crate::ddl::Run;
use crate::model::{Fault, Relation};
use crate::pg::pattern::Pattern;
use crate::pgoutput::{Begin, Message, Truncate};
use crate::rules::{Changes, RuleSet, Shaped, Spare, Truncated};
use crate::transform::{Emptying, Refusal};

/// What the rules make of the tables that the log has defined. Without rules it knows none.
#[derive(Debug, Default)]
pub(super) struct Shaper {
    rules: Option<Arc<RuleSet>>,
    /// Rows are states.
    is_polled: bool,
    tables: HashMap<u32, Table>,
}

#[derive(Debug)]
struct Table {
    source: Relation,
    by_rules: ByRules,
}

#[derive(Debug)]
enum ByRules {
    /// No rule means it.
    Same,
    Shaped(Box<Shaped>),
    Refused(Refusal),
}

/// What a change is on the target.
pub(super) enum Given<'s> {
    /// As it is in the log.
    Same,
    Nothing,
    /// Other changes of rows.
    Rows(Changes<'s>),
    /// A TRUNCATE of these tables, if any is left, and of those what it is where it is none.
    Truncate {
        rest: Truncate,
        parts: Vec<u32>,
    },
}

impl Shaper {
    /// For this log. Refuses rules that can't read it.
    pub(super) fn new(rules: Option<Arc<RuleSet>>, log: &Manifest) -> Result<Shaper, Fault> {
        if let Some(rules) = &rules {
            rules.refuse_encoding(&log.server_encoding)?;
        }
        Ok(Shaper { rules, is_polled: log.is_polled(), tables: HashMap::new() })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_none()
    }

    /// Takes note of a table, and gives it as the target has it. What can't be is refused with its first change.
    pub(super) fn define(&mut self, source: &Relation) -> Relation {
        let Some(rules) = &self.rules else { return source.clone() };
        let shaped = if self.is_polled { rules.shape_states(source) } else { rules.shape(source) };
        let by_rules = match shaped {
            Ok(None) => ByRules::Same,
            Ok(Some(shaped)) => ByRules::Shaped(Box::new(shaped)),
            Err(refusal) => ByRules::Refused(refusal),
        };
        self.tables.insert(source.oid, Table { source: source.clone(), by_rules });
        if let Some(refusal) = self.clash(source.oid)
            && let Some(table) = self.tables.get_mut(&source.oid)
        {
            table.by_rules = ByRules::Refused(refusal);
        }
        self.shaped(source.oid).map_or_else(|| source.clone(), |shaped| shaped.relation().clone())
    }

    /// The refusal of a table that would go where another one goes, and none has said so.
    fn clash(&self, oid: u32) -> Option<Refusal> {
        let one = self.tables.get(&oid)?;
        let place = one.place()?;
        let is_routed =
            |table: &Table| matches!(&table.by_rules, ByRules::Shaped(shaped) if shaped.is_routed());
        let is_other = |table: &&Table| {
            (&table.source.schema, &table.source.name) != (&one.source.schema, &one.source.name)
        };
        let mut others = self.tables.values().filter(is_other);
        let other =
            others.find(|other| other.place() == Some(place) && !(is_routed(one) && is_routed(other)))?;
        Some(Refusal {
            message: format!(
                "by the rules rows of {}.{} and of {}.{} both go into {}.{}",
                other.source.schema, other.source.name, one.source.schema, one.source.name, place.0, place.1
            ),
            hint: Some("say into of both, if that is meant; or give one another name".into()),
            add_columns: None,
        })
    }

    /// The table as the log has it, where there are rules.
    pub(super) fn source(&self, oid: u32) -> Option<&Relation> {
        self.tables.get(&oid).map(|table| &table.source)
    }

    /// A table that some rule means.
    pub(super) fn shaped(&self, oid: u32) -> Option<&Shaped> {
        match &self.tables.get(&oid)?.by_rules {
            ByRules::Shaped(shaped) => Some(shaped),
            ByRules::Same | ByRules::Refused(_) => None,
        }
    }

    /// Why no change of a table can be told.
    pub(super) fn refusal(&self, oid: u32) -> Option<&Refusal> {
        match &self.tables.get(&oid)?.by_rules {
            ByRules::Refused(refusal) => Some(refusal),
            ByRules::Same | ByRules::Shaped(_) => None,
        }
    }

    /// What a change is on the target, or why that can't be told. `is_left_out`: of tables that are not for it.
    pub(super) fn change<'s>(
        &self,
        change: &Message<'_>,
        begin: Begin,
        is_left_out: impl Fn(u32) -> bool,
        spare: &'s mut Spare,
    ) -> Result<Given<'s>, Refusal> {
        match change {
            Message::Insert { relation: oid, .. }
            | Message::Update { relation: oid, .. }
            | Message::Delete { relation: oid, .. } => match self.shaped(*oid) {
                _ if is_left_out(*oid) => Ok(Given::Same),
                Some(shaped) => Ok(match shaped.change(change, begin, spare)? {
                    [None, None] => Given::Nothing,
                    changes => Given::Rows(changes),
                }),
                None => self.refusal(*oid).map_or(Ok(Given::Same), |refusal| Err(refusal.clone())),
            },
            Message::Truncate(truncate) => self.truncate(truncate, begin, is_left_out),
            _ => Ok(Given::Same),
        }
    }

    fn truncate<'s>(
        &self,
        truncate: &Truncate,
        begin: Begin,
        is_left_out: impl Fn(u32) -> bool,
    ) -> Result<Given<'s>, Refusal> {
        let (mut rest, mut parts) = (Vec::new(), Vec::new());
        for &oid in &truncate.relations {
            let shaped = self.shaped(oid).filter(|_| !is_left_out(oid));
            match shaped.map_or(Ok(Truncated::Whole), |shaped| shaped.truncated(begin))? {
                Truncated::Whole => rest.push(oid),
                Truncated::Rows(_) => parts.push(oid),
                Truncated::Nothing => {}
            }
        }
        Ok(match (rest.len() == truncate.relations.len(), rest.is_empty() && parts.is_empty()) {
            (true, _) => Given::Same,
            (_, true) => Given::Nothing,
            _ => Given::Truncate { rest: Truncate { relations: rest, ..truncate.clone() }, parts },
        })
    }

    /// What a TRUNCATE of a table is where it is none.
    pub(super) fn emptying(&self, oid: u32, begin: Begin) -> Emptying {
        let truncated = self.shaped(oid).map(|shaped| shaped.truncated(begin));
        match truncated {
            Some(Ok(Truncated::Rows(emptying))) => emptying,
            _ => Emptying::default(),
        }
    }

    /// Whether DDL may be about a table that is another one here. What names no relation may be.
    pub(super) fn may_be_about(&self, statement: &Run) -> bool {
        let Some(rules) = &self.rules else { return false };
        let mut names = statement.tables.iter().chain(&statement.before).chain(&statement.after).peekable();
        let is_ruled = |name: &String| {
            let table = name.parse::<Pattern>().ok().and_then(|name| name.exact());
            table.is_none_or(|(schema, name)| rules.means(&schema, &name))
        };
        names.peek().is_none() || names.any(is_ruled)
    }

    /// Patterns of rules that mean no table that the log has defined.
    pub(super) fn unmatched(&self) -> Vec<String> {
        let seen =
            self.tables.values().map(|table| (table.source.schema.as_str(), table.source.name.as_str()));
        self.rules.iter().flat_map(|rules| rules.unmatched(seen.clone())).collect()
    }
}

impl Table {
    /// Where its rows go.
    fn place(&self) -> Option<(&str, &str)> {
        let relation = match &self.by_rules {
            ByRules::Same => &self.source,
            ByRules::Shaped(shaped) => shaped.relation(),
            ByRules::Refused(_) => return None,
        };
        Some((&relation.schema, &relation.name))
    }
}
