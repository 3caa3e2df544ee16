//! What the source does: transactions of a bank, as pgoutput tells them, and the state after each.

use pgsluice::model::{Column, Lsn, Position, Relation, ReplicaIdentity, Timestamp, Value, Xid};
use pgsluice::pgoutput::{Begin, Commit, Message, Old, Truncate, TupleBuffer, encode};

use super::START;
use super::checks::BALANCE;
use super::random::Random;
use super::target::Target;

pub(super) struct History {
    pub(super) start: Position,
    pub(super) transactions: Vec<Transaction>,
}

pub(super) struct Transaction {
    pub(super) end: Position,
    /// Where the first record is that is told of.
    pub(super) begins: Position,
    /// From Begin to Commit, without definitions.
    pub(super) messages: Vec<Vec<u8>>,
    /// A logical message outside of transactions that was written before it: its place, and its bytes.
    pub(super) before: Option<(Position, Vec<u8>)>,
    /// The definitions that hold when it is decoded.
    pub(super) relations: Vec<Relation>,
    /// A checksum of all rows after it.
    pub(super) state: u32,
}

const ACCOUNTS: u64 = 5;
const ACCOUNT: u32 = 16_401;
const LEDGER: u32 = 16_402;
const ENTERED: u32 = 16_403;
const SCRATCH: u32 = 16_404;

/// What the next transaction is made from.
struct Maker<'a> {
    random: &'a mut Random,
    /// Balance and number of entries of each account.
    accounts: Vec<(i64, i64)>,
    scratch: Vec<u64>,
    relations: Vec<Relation>,
    messages: Vec<Vec<u8>>,
}

impl History {
    pub(super) fn make(random: &mut Random) -> History {
        let count = 5 + random.below(60);
        let mut maker = Maker {
            random,
            accounts: Vec::new(),
            scratch: Vec::new(),
            relations: relations(false),
            messages: Vec::new(),
        };
        let mut model = Target::new(START);
        let mut transactions = Vec::new();
        let mut lsn = START.0;
        for xid in 1..=count {
            let after = lsn;
            let before = maker.random.one_in(8).then(|| {
                lsn += 0x40;
                let (prefix, content) = (&b"alone"[..], &b"words"[..]);
                let message = Message::Logical { transactional: false, lsn: Lsn(lsn), prefix, content };
                (Position(lsn), encoded(&message))
            });
            if maker.random.one_in(40) {
                maker.relations = relations(true);
            }
            // Now and then a commit follows on the one before it.
            lsn += maker.random.any(&[0, 0x28, 0x1000, 0x10_0000]);
            let commit_lsn = Lsn(lsn);
            let begins = Position(if before.is_some() { after } else { lsn });
            lsn += 0x30 + maker.random.below(4) * 8;
            let (end, commit_time) = (Position(lsn), Timestamp::from_unix_microseconds(now()));
            let begin = Begin { commit_lsn, commit_time, xid: Xid(xid as u32) };
            maker.messages.push(encoded(&Message::Begin(begin)));
            maker.transaction(xid == 1);
            maker.messages.push(encoded(&Message::Commit(Commit { commit_lsn, end, commit_time })));
            let messages = std::mem::take(&mut maker.messages);
            let relations = maker.relations.clone();
            let mut state = 0;
            model.apply(&records(&relations, &messages), |model| state = model.checksum());
            transactions.push(Transaction { end, begins, messages, before, relations, state });
        }
        History { start: START, transactions }
    }

    pub(super) fn end(&self) -> Position {
        self.transactions.last().unwrap().end
    }
}

impl Maker<'_> {
    fn transaction(&mut self, is_first: bool) {
        if is_first {
            for account in 0..ACCOUNTS {
                self.accounts.push((BALANCE, 0));
                let note = "n".repeat(200);
                self.insert(ACCOUNT, &[&account.to_string(), &BALANCE.to_string(), "0", &note]);
            }
            return;
        }
        match self.random.below(10) {
            // Nothing that is published.
            0 => {}
            1 => self.scratch(),
            2 => {
                self.transfer();
                self.scratch();
            }
            3 => (0..1 + self.random.below(20)).for_each(|_| self.transfer()),
            _ => self.transfer(),
        }
    }

    fn transfer(&mut self) {
        let payer = self.random.below(ACCOUNTS) as usize;
        let payee = (payer + 1 + self.random.below(ACCOUNTS - 1) as usize) % ACCOUNTS as usize;
        let amount = self.random.below(100) as i64;
        for (account, delta) in [(payer, -amount), (payee, amount)] {
            let (balance, n) = &mut self.accounts[account];
            (*balance, *n) = (*balance + delta, *n + 1);
            let (account, balance, n) = (account.to_string(), balance.to_string(), n.to_string());
            // The note is stored apart and does not come again.
            self.update(ACCOUNT, None, &[Some(&account), Some(&balance), Some(&n), None]);
            self.insert(LEDGER, &[&account, &n, &delta.to_string()]);
            self.insert(ENTERED, &[&account, &n]);
            if self.random.one_in(10) {
                // There and back again: the key changes twice.
                let away = format!("-{n}");
                let delta = delta.to_string();
                self.update(LEDGER, Some(&[&account, &n]), &[Some(&account), Some(&away), Some(&delta)]);
                self.update(LEDGER, Some(&[&account, &away]), &[Some(&account), Some(&n), Some(&delta)]);
            }
            if self.random.one_in(10) {
                self.delete(ENTERED, &[Some(&account), Some(&n)]);
                self.insert(ENTERED, &[&account, &n]);
            }
        }
    }

    fn scratch(&mut self) {
        if self.random.one_in(4) {
            self.scratch.clear();
            let truncate = Truncate { relations: vec![SCRATCH], cascade: false, restart_identity: false };
            self.messages.push(encoded(&Message::Truncate(truncate)));
        }
        for _ in 0..self.random.below(30) {
            let id = self.random.next();
            let long = self.random.any(&[1, 10, 3000]);
            let text: String = std::iter::repeat_with(|| char::from(b'a' + self.random.below(26) as u8))
                .take(long)
                .collect();
            self.insert(SCRATCH, &[&id.to_string(), &text]);
            self.scratch.push(id);
        }
        if let Some(id) = self.scratch.pop() {
            self.delete(SCRATCH, &[Some(&id.to_string()), None]);
        }
    }

    fn columns(&self, oid: u32) -> usize {
        self.relations.iter().find(|relation| relation.oid == oid).unwrap().columns.len()
    }

    fn insert(&mut self, relation: u32, values: &[&str]) {
        let values: Vec<_> = values.iter().map(|text| Value::Text(text.as_bytes())).collect();
        let new = tuple(&values, self.columns(relation));
        self.messages.push(encoded(&Message::Insert { relation, new: new.tuple() }));
    }

    /// With the key before where that changes; a column without a value is not sent.
    fn update(&mut self, relation: u32, key: Option<&[&str]>, values: &[Option<&str>]) {
        let columns = self.columns(relation);
        let values: Vec<_> = values
            .iter()
            .map(|text| text.map_or(Value::Unchanged, |text| Value::Text(text.as_bytes())))
            .collect();
        let new = tuple(&values, columns);
        let key = key.map(|key| key.iter().map(|text| Value::Text(text.as_bytes())).collect::<Vec<_>>());
        let key = key.map(|key| tuple(&key, columns));
        let old = key.as_ref().map_or(Old::Absent, |key| Old::Key(key.tuple()));
        self.messages.push(encoded(&Message::Update { relation, old, new: new.tuple() }));
    }

    fn delete(&mut self, relation: u32, old: &[Option<&str>]) {
        let values: Vec<_> =
            old.iter().map(|text| text.map_or(Value::Null, |text| Value::Text(text.as_bytes()))).collect();
        let old = tuple(&values, self.columns(relation));
        let is_whole = relation == ENTERED;
        let old = if is_whole { Old::Row(old.tuple()) } else { Old::Key(old.tuple()) };
        self.messages.push(encoded(&Message::Delete { relation, old }));
    }
}

/// Padded with nulls to the number of columns.
fn tuple(values: &[Value<'_>], columns: usize) -> TupleBuffer {
    let mut row = TupleBuffer::default();
    for column in 0..columns {
        row.push(values.get(column).copied().unwrap_or(Value::Null)).unwrap();
    }
    row
}

pub(super) fn encoded(message: &Message<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(message, &mut bytes).unwrap();
    bytes
}

/// As the log has them.
fn records(relations: &[Relation], messages: &[Vec<u8>]) -> Vec<u8> {
    let mut raw = Vec::new();
    let definitions = relations.iter().map(|relation| encoded(&Message::Relation(relation.clone())));
    for message in definitions.chain(messages.iter().cloned()) {
        pgsluice::segment::push_record(&mut raw, &message);
    }
    raw
}

/// The tables; after a change, with one column more in one of them.
fn relations(is_wider: bool) -> Vec<Relation> {
    let table = |oid, name: &str, identity, columns: &[(&str, bool)]| Relation {
        oid,
        schema: "public".into(),
        name: name.into(),
        identity,
        columns: columns
            .iter()
            .map(|(name, key)| Column { name: (*name).into(), key: *key, type_oid: 25, type_modifier: -1 })
            .collect(),
    };
    let mut scratch = vec![("id", true), ("text", false)];
    if is_wider {
        scratch.push(("more", false));
    }
    let default = ReplicaIdentity::Default;
    vec![
        table(
            ACCOUNT,
            "account",
            default,
            &[("id", true), ("balance", false), ("n", false), ("note", false)],
        ),
        table(LEDGER, "ledger", default, &[("account", true), ("n", true), ("delta", false)]),
        table(ENTERED, "entered", ReplicaIdentity::Full, &[("account", true), ("n", true)]),
        table(SCRATCH, "scratch", default, &scratch),
    ]
}

pub(super) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    since.as_micros() as i64
}
