//! Money moving between accounts, with invariants that hold on the target at every moment.
//!
//! The sum of all balances never changes, the entries of each account are numbered without a gap, and a table without a
//! key has exactly one row for each entry: a lost transaction leaves a gap, one that was applied twice a double.

use std::time::Duration;

use super::{Cluster, Road, Running, Session};

const ACCOUNTS: u32 = 20;

/// The tables, on both sides.
pub const TABLES: &str = "
create table account(id int primary key, balance bigint not null, n int not null, note text);
alter table account alter note set storage external;
create table ledger(account int, n int, delta bigint, primary key (account, n));
create table entered(account int, n int);
create table scratch(id int);
insert into account select i, 1000, 0, repeat(md5(i::text), 100) from generate_series(1, 20) i;
";

/// What moves the money, on the source.
pub const TRANSFER: &str = "
create function transfer(payer int, payee int, amount int, dice int) returns void language plpgsql as $$
declare
    number int;
begin
    if payer = payee then
        return;
    end if;
    perform 1 from account where id in (payer, payee) order by id for update;
    update account set balance = balance - amount, n = n + 1 where id = payer returning n into number;
    insert into ledger values (payer, number, -amount);
    insert into entered values (payer, number);
    begin
        insert into entered values (-1, -1);
        raise exception 'rolled back to the savepoint';
    exception when raise_exception then
        null;
    end;
    update account set balance = balance + amount, n = n + 1 where id = payee returning n into number;
    insert into ledger values (payee, number, amount);
    insert into entered values (payee, number);
    if dice = 1 then
        update account set note = repeat(md5(random()::text), 100) where id = payer;
    elsif dice = 2 then
        truncate scratch;
    elsif dice = 3 then
        insert into scratch select generate_series(1, 500);
    elsif dice = 4 then
        update ledger set n = -n where account = payer and n = number;
        update ledger set n = -n where account = payer and n = -number;
    elsif dice = 5 then
        delete from ledger where account = payee and n = number;
        insert into ledger values (payee, number, amount);
    elsif dice = 6 and number > 1 then
        -- The last two entries exchange their keys.
        update ledger set n = 0 where account = payee and n = number;
        update ledger set n = number where account = payee and n = number - 1;
        update ledger set n = number - 1 where account = payee and n = 0;
    elsif dice = 7 and amount > 90 then
        insert into scratch select generate_series(1, 5000);
    end if;
end $$;
";

/// One row of one column, read in one snapshot: what is wrong, or nothing.
const WRONG: &str = "
select concat_ws('; ',
    (select 'sum of balances ' || sum(balance) from account having sum(balance) <> 20000),
    (select 'account ' || min(id) from account a
        where n <> (select count(*) from ledger l where l.account = a.id)
           or n <> (select coalesce(max(n), 0) from ledger l where l.account = a.id)
           or balance <> 1000 + (select coalesce(sum(delta), 0) from ledger l where l.account = a.id)),
    (select 'entered ' || count(*) || ' times: ' || account || ', ' || n
        from entered group by account, n having count(*) > 1 limit 1),
    (select 'not entered: ' || count(*) from ledger l
        where not exists (select from entered e where e.account = l.account and e.n = l.n) having count(*) > 0),
    (select 'entered too much: ' || count(*) from entered e
        where not exists (select from ledger l where e.account = l.account and e.n = l.n) having count(*) > 0))
";

pub fn road() -> Road {
    road_between(Cluster::source(), Cluster::target())
}

pub fn road_between(source: Cluster, target: Cluster) -> Road {
    Road::between(source, target, &format!("{TABLES}{TRANSFER}"), TABLES)
}

/// As [`road`], with settings in the environment of every command.
pub fn road_with(settings: &[(&str, &str)]) -> Road {
    Road::with_settings(&format!("{TABLES}{TRANSFER}"), TABLES, settings)
}

/// Another target for it.
pub fn another_target() -> Cluster {
    let target = Cluster::target();
    target.run_script(TABLES);
    target
}

/// Starts the load: it runs until it is dropped.
pub fn load(source: &Cluster, transactions_per_second: u32) -> (Running, tempfile::NamedTempFile) {
    load_by(source, transactions_per_second, 1)
}

/// As [`load`], with the dice of the transactions thrown from a seed. One in fifty has an id and changes nothing.
pub fn load_by(
    source: &Cluster,
    transactions_per_second: u32,
    seed: u64,
) -> (Running, tempfile::NamedTempFile) {
    let script = tempfile::NamedTempFile::new().unwrap();
    let text = format!(
        "\\set payer random(1, {ACCOUNTS})\n\\set payee random(1, {ACCOUNTS})\n\\set amount random(1, 100)\n\
         \\set dice random(1, 40)\n\\set empty random(1, 50)\n\\if :empty = 1\nselect pg_current_xact_id();\n\\else\n\
         select transfer(:payer, :payee, :amount, :dice);\n\\endif\n"
    );
    std::fs::write(script.path(), text).unwrap();
    let rate = transactions_per_second.to_string();
    let path = script.path().display().to_string();
    let seed = format!("--random-seed={}", seed & 0x7fff_ffff);
    let running = source.start_pgbench(&["-n", "-c", "4", "-T", "86400", "-R", &rate, &seed, "-f", &path]);
    (running, script)
}

#[track_caller]
pub fn assert_holds(cluster: &Cluster) {
    let wrong = cluster.value(WRONG);
    assert_eq!(wrong, "", "the ledger does not hold");
}

/// What is wrong, in one snapshot. While some lanes have committed a batch and others have not, nothing can be said.
pub fn wrong(target: &Session) -> String {
    target.value(&format!(
        "select case when exists (select from pgsluice.lane join pgsluice.progress using (stream)
             where lane.lsn > progress.lsn) then '' else ({WRONG}) end"
    ))
}

/// Numbers that look random and are the same in each run: the moments of the kills.
pub struct Dice(pub u64);

impl Dice {
    /// From `from` up to, and without, `to`.
    pub fn number(&mut self, from: u64, to: u64) -> u64 {
        // SplitMix64: what is drawn does not depend on what was drawn just before.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        from + (mixed ^ (mixed >> 31)) % (to - from)
    }

    pub fn milliseconds(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(self.number(from, to))
    }
}

/// How many kills a test does: `PGSLUICE_KILLS`, for runs of hours.
pub fn kills() -> u64 {
    std::env::var("PGSLUICE_KILLS").map_or(10, |text| text.parse().expect("PGSLUICE_KILLS is a number"))
}
