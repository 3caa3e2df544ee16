//! Every kind of rule over the tables of pagila, a well-known sample database: a clone with the changes behind it, and a replay of a base with its
//! log, give the same target, and it is what SQL makes of the source.

use crate::support::{Cluster, Pgsluice, Running, seconds};

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// Tables that are as on the source.
const PLAIN: &str = "
create type mpaa_rating as enum ('G', 'PG', 'PG-13', 'R', 'NC-17');
create domain year as integer check (value >= 1901 and value <= 2155);
create table country(country_id int primary key, country text not null, last_update timestamptz not null default now());
create table city(city_id int primary key, city text not null, country_id int not null, last_update timestamptz not null default now());
create table language(language_id int primary key, name character(20) not null, last_update timestamptz not null default now());
create table film(film_id int primary key, title text not null, description text, release_year year, language_id int not null, rental_duration smallint not null default 3,
    rental_rate numeric(4,2) not null default 4.99, length smallint, replacement_cost numeric(5,2) not null default 19.99, rating mpaa_rating default 'G',
    last_update timestamptz not null default now(), special_features text[], fulltext tsvector not null);
create table film_actor(actor_id int, film_id int, last_update timestamptz not null default now(), primary key (actor_id, film_id));";

/// Tables that rules make others of.
const SOURCE: &str = "
create table actor(actor_id int primary key, first_name text not null, last_name text not null, last_update timestamptz not null default now());
create table category(category_id int primary key, name text not null, last_update timestamptz not null default now());
create table address(address_id int primary key, address text not null, address2 text, district text not null, city_id int not null, postal_code text, phone text not null, last_update timestamptz not null default now());
create table customer(customer_id int primary key, store_id int not null, first_name text not null, last_name text not null, email text, address_id int not null, activebool boolean not null default true,
    create_date date not null default current_date, last_update timestamptz default now(), active int);
create table inventory(inventory_id int primary key, film_id int not null, store_id int not null, last_update timestamptz not null default now());
create table staff(staff_id int primary key, first_name text not null, last_name text not null, address_id int not null, email text, store_id int not null, active boolean not null default true,
    username text not null, password text, last_update timestamptz not null default now(), picture bytea);
create table store(store_id int primary key, manager_staff_id int not null, address_id int not null, last_update timestamptz not null default now());
create table rental(rental_id int primary key, rental_date timestamptz not null, inventory_id int not null, customer_id int not null, return_date timestamptz, staff_id int not null,
    last_update timestamptz not null default now());
create table payment(payment_id int, customer_id int not null, staff_id int not null, rental_id int not null, amount numeric(5,2) not null, payment_date timestamptz not null,
    primary key (payment_date, payment_id)) partition by range (payment_date);
create table payment_p2022_01 partition of payment for values from ('2022-01-01') to ('2022-02-01');
create table payment_p2022_02 partition of payment for values from ('2022-02-01') to ('2022-03-01');
alter table customer replica identity full;
insert into country select i, 'country ' || i, '2022-01-01' from generate_series(1, 20) i;
insert into city select i, 'city ' || i, i % 20 + 1, '2022-01-01' from generate_series(1, 100) i;
insert into language select i, 'language ' || i, '2022-01-01' from generate_series(1, 6) i;
insert into film select i, 'film ' || i, 'about ' || md5(i::text), 2000 + i % 20, i % 6 + 1, i % 7, i % 99 + 0.99, i % 180, 19.99, (enum_range(null::mpaa_rating))[1 + i % 5], '2022-01-01',
       array['Trailers', 'Deleted Scenes'], to_tsvector('film ' || i) from generate_series(1, 300) i;
insert into actor select i, 'first' || i, 'last' || i, '2022-01-01' from generate_series(1, 100) i;
insert into film_actor select i % 100 + 1, i, '2022-01-01' from generate_series(1, 300) i;
insert into category select i, 'category ' || i, '2022-01-01' from generate_series(1, 16) i;
insert into address select i, i || ' Main Street', nullif('unit ' || i % 3, 'unit 0'), 'district ' || i % 9, i % 100 + 1, lpad(i::text, 5, '0'), '0301234' || i, '2022-01-01' from generate_series(1, 300) i;
insert into customer select i, i % 2 + 1, 'first' || i, 'last' || i, 'user' || i || '@sakila.org', i, i % 5 > 0, '2022-01-01', '2022-01-01', i % 2 from generate_series(1, 300) i;
insert into inventory select i, i % 300 + 1, i % 2 + 1, '2022-01-01' from generate_series(1, 600) i;
insert into staff values (1, 'Mike', 'Hillyer', 3, 'mike@sakila.org', 1, true, 'Mike', '8cb2237d', '2022-01-01', '\\x89504e47'), (2, 'Jon', 'Stephens', 4, 'jon@sakila.org', 2, true, 'Jon', null, '2022-01-01', null);
insert into store values (1, 1, 1, '2022-01-01'), (2, 2, 2, '2022-01-01');
insert into rental select i, '2022-01-01'::timestamptz + i * interval '1 hour', i % 600 + 1, i % 300 + 1, null, i % 2 + 1, '2022-01-01' from generate_series(1, 500) i;
insert into payment select i, i % 300 + 1, i % 2 + 1, i, i % 10 + 0.99, '2022-01-15'::timestamptz + (i % 30) * interval '1 day' from generate_series(1, 500) i;
create procedure load(rounds int) language plpgsql as $$
declare k int; m int; begin
    for i in 1..rounds loop
        k := 1 + (random() * 300)::int; m := 1 + (random() * 300)::int;
        update customer set email = 'new' || i || '@sakila.org', activebool = not activebool where customer_id = k;
        update customer set customer_id = 1000 + i where customer_id = m and i % 5 = 0;
        delete from customer where customer_id = m and i % 3 = 0;
        insert into customer values (2000 + i, 1, 'in' || i, 'let', 'in' || i || '@sakila.org', 1 + i % 300, i % 2 = 0, '2022-02-02', now(), null);
        update actor set last_name = 'star ' || i where actor_id = 1 + i % 100; delete from actor where actor_id = i % 100 and i % 7 = 0;
        insert into actor values (i % 100, 'again', 'back ' || i) on conflict (actor_id) do nothing;
        update address set phone = '0' || i, address2 = null where address_id = k; delete from address where address_id = k and i % 4 = 0;
        insert into rental values (1000 + i, now(), k, k, null, 1, now()); update rental set return_date = now() where rental_id = k;
        insert into payment values (1000 + i, k, 1, k, 1.99, '2022-01-20'); update payment set amount = amount + 1 where payment_id = k and payment_date < '2022-02-01';
        delete from payment where payment_id = k and i % 9 = 0 and payment_date < '2022-02-01'; insert into payment values (5000 + i, k, 1, k, 2.99, '2022-02-20');
        update film set rental_rate = rental_rate + 0.01 where film_id = k; update inventory set store_id = 3 - store_id where inventory_id = k;
        update staff set password = md5(i::text) where staff_id = 1 + i % 2; update category set name = 'category ' || i where category_id = 1 + i % 16;
        update store set manager_staff_id = 3 - manager_staff_id;
        commit;
    end loop;
end $$;";

const TARGET: &str = "
create schema shop;
create table shop.actor(actor_id int, first_name text, last_name text, last_update timestamptz, _lsn pg_lsn, _xid int8, valid_from timestamptz, valid_to timestamptz, primary key (actor_id, _lsn));
create table shop.category(category_id int primary key, name text);
create table shop.address(address_id int primary key, address text, address2 text, district text, city_id int, postal_code text, phone text, last_update timestamptz,
    deleted_at timestamptz, _deleted bool, _operation text, _commit_time timestamptz);
create table shop.people(id int8 primary key, store_id int, initials text, last_name text, email text, address_id int, create_date date, last_update timestamptz, active text, region text);
create table shop.inventory(inventory_id int primary key, film_id int, store_id int, label text);
create table shop.staff(staff_id int primary key, first_name text, last_name text, address_id int, email text, store_id int, active boolean, username text, password text, last_update timestamptz);
create table shop.store(store_id int primary key, manager_staff_id int, address_id int, last_update timestamptz, _time timestamptz, _source text);
create table shop.rental(rental_id int primary key, rental_date date, inventory_id int, customer_id int8, return_date timestamptz, staff_id int, last_update timestamptz);
create table shop.payments(month text, payment_id int, customer_id int8, amount numeric, payment_date timestamptz, primary key (month, payment_date, payment_id));";

const RULES: &str = r##"
[hash]
key-env = "SECRET"

[table."public.actor"]
schema = "shop"
mode = "history"
[table."public.actor".column]
_lsn = { metadata = "lsn" }
_xid = { metadata = "xid" }
valid_from = { metadata = "valid-from" }
valid_to = { metadata = "valid-to" }

[table."public.category"]
schema = "shop"
keep = ["category_id", "name"]

[table."public.address"]
schema = "shop"
mode = "soft-delete"
[table."public.address".column]
address2 = { null = true }
phone = { partial = { first = 2, last = 1, with = "#" } }
postal_code = { regex = '\d{3}$', with = "000", optional = true }
deleted_at = { metadata = "deleted-at" }
_deleted = { metadata = "deleted" }
_operation = { metadata = "operation" }
_commit_time = { metadata = "commit-time" }

[table."public.customer"]
schema = "shop"
name = "people"
key = ["id"]
where = "activebool && customer_id != 13"
drop = ["activebool"]
[table."public.customer".column]
customer_id = { name = "id", hash = true, cast = "int8" }
first_name = { name = "initials", expression = "first_name.substring(0, 1) + '.'" }
email = { hash = true }
active = { cast = "text" }
region = { constant = "eu" }

[table."public.inventory"]
schema = "shop"
drop = ["last_update"]
column.label = { expression = "'store ' + string(store_id)" }

[table."public.staff"]
schema = "shop"
drop = ["picture"]
column.password = { fixed = "*" }

[table."public.store"]
schema = "shop"
key = ["store_id"]
conflict = "last"
column._time = { metadata = "commit-time" }
column._source = { metadata = "source" }

[table."public.rental"]
schema = "shop"
column.rental_date = { cast = "date" }
column.customer_id = { hash = true, cast = "int8" }

[table."public.payment_p2022_01"]
into = "shop.payments"
truncate = "delete"
drop = ["staff_id", "rental_id"]
[table."public.payment_p2022_01".column]
month = { constant = "01" }
customer_id = { hash = true, cast = "int8" }

[table."public.payment_p2022_02"]
into = "shop.payments"
truncate = "delete"
drop = ["staff_id", "rental_id"]
only-inserts = true
[table."public.payment_p2022_02".column]
month = { constant = "02" }
customer_id = { hash = true, cast = "int8" }
"##;

const TABLES: &[&str] = &[
    "country",
    "city",
    "language",
    "film",
    "film_actor",
    "shop.actor",
    "shop.category",
    "shop.address",
    "shop.people",
    "shop.inventory",
    "shop.staff",
    "shop.store",
    "shop.rental",
    "shop.payments",
];

fn digest(cluster: &Cluster, sql: &str) -> String {
    cluster.value(&format!(
        "select count(*) || ' ' || md5(coalesce(string_agg(r::text, e'\\n' order by r::text collate \"C\"), '')) from ({sql}) r"
    ))
}

/// What SQL makes of the source's rows.
#[track_caller]
fn is_what_rules_say(source: &Cluster, target: &Cluster) {
    source.run_script("create extension if not exists pgcrypto");
    let number = |value: &str| {
        format!(
            "(('x' || encode(substr(hmac({value}::text, '{KEY}', 'sha256'), 1, 8), 'hex'))::bit(64)::int8 >> 1) & 9223372036854775807"
        )
    };
    let text = |value: &str| format!("left(encode(hmac({value}, '{KEY}', 'sha256'), 'hex'), 32)");
    let people = format!(
        "select {}, store_id, left(first_name, 1) || '.', last_name, {}, address_id, create_date, last_update, active::text, 'eu'::text
           from customer where activebool and customer_id <> 13",
        number("customer_id"),
        text("email")
    );
    let rental = format!(
        "select rental_id, rental_date::date, inventory_id, {}, return_date, staff_id, last_update from rental",
        number("customer_id")
    );
    let payments = format!(
        "select to_char(payment_date, 'MM'), payment_id, {}, amount, payment_date from payment",
        number("customer_id")
    );
    let address = "select address_id, address, null::text, district, city_id, regexp_replace(postal_code, '\\d{3}$', '000'),
                          left(phone, 2) || repeat('#', greatest(length(phone) - 3, 0)) || right(phone, 1), last_update from address where length(phone) > 3";
    for (expected, found) in [
        ("select * from country", "select * from country"),
        ("select * from film", "select * from film"),
        ("select * from film_actor", "select * from film_actor"),
        (
            "select * from actor",
            "select actor_id, first_name, last_name, last_update from shop.actor where valid_to = 'infinity'",
        ),
        ("select category_id, name from category", "select * from shop.category"),
        (
            address,
            "select address_id, address, address2, district, city_id, postal_code, phone, last_update from shop.address where deleted_at is null and length(phone) > 3",
        ),
        (&people, "select * from shop.people"),
        (
            "select inventory_id, film_id, store_id, 'store ' || store_id from inventory",
            "select * from shop.inventory",
        ),
        (
            "select staff_id, first_name, last_name, address_id, email, store_id, active, username, case when password is not null then '*' end, last_update from staff",
            "select * from shop.staff",
        ),
        ("select * from store", "select store_id, manager_staff_id, address_id, last_update from shop.store"),
        (&rental, "select * from shop.rental"),
        (&payments, "select * from shop.payments"),
    ] {
        assert_eq!(digest(target, found), digest(source, expected), "{found}");
    }
}

#[test]
fn every_kind_of_rule_gives_the_same_by_a_clone_with_changes_and_by_a_replay() {
    let source = Cluster::source();
    let targets = [Cluster::target(), Cluster::target()];
    source.run_script(&format!("{PLAIN} {SOURCE}"));
    targets.iter().for_each(|target| target.run_script(&format!("{PLAIN} {TARGET}")));
    let [target, second] = &targets;
    let program = Pgsluice::between(&source, target).env("SECRET", KEY).limit(seconds(120));
    let path = program.folder().join("pagila.rules");
    std::fs::write(&path, RULES).unwrap();
    let path = path.display().to_string();
    let ruled = |program: Pgsluice| program.env("PGSLUICE_RULES", &path);
    let base = Pgsluice::between(&source, second).limit(seconds(120));
    let program = ruled(program);
    program.run(&["rules", "check", &path]).done();
    let base_slot = ["--slot", "base", "--publication", "base"];
    base.run(&[&["clone", "--into-archive"][..], &base_slot].concat()).done();
    program.run(&["clone", "--keep", "--no-schema"]).done();
    is_what_rules_say(&source, target);
    let load = || {
        let mut command = source.client("psql");
        command.args(["-c", "call load(150)"]);
        Running::spawn(command).wait(seconds(120)).done();
    };
    // Changes under both ways of applying, of which a mistake would show between the two targets.
    load();
    program.follow_to_current();
    is_what_rules_say(&source, target);
    source.run_script("truncate payment_p2022_01; insert into payment values (1, 1, 1, 1, 5, '2022-01-02'); delete from city where city_id > 90");
    program.run(&["follow", "--endpos", "current", "--apply", "exact"]).done();
    base.run(&[&["receive", "--endpos", "current"][..], &base_slot].concat()).done();
    let archive = base.archive().display().to_string();
    let replayed = ruled(Pgsluice::between(&source, second).env("SECRET", KEY).limit(seconds(120)));
    replayed.env("PGSLUICE_ARCHIVE", &archive).run(&["replay", "--no-schema"]).done();
    for cluster in &targets {
        is_what_rules_say(&source, cluster);
    }
    for table in TABLES {
        let all = format!("select * from {table}");
        assert_eq!(digest(second, &all), digest(target, &all), "{table}");
    }
    assert!(
        target.value("select count(*) from shop.actor where valid_to <> 'infinity'").parse::<u32>().unwrap()
            > 100
    );
    assert!(
        target
            .value("select count(*) from shop.address where _deleted and _operation = 'delete'")
            .parse::<u32>()
            .unwrap()
            > 5
    );
    // Tried without a target.
    let tried = program.run(&["rules", "test", &path, "--limit", "2"]).done().stdout;
    for said in [
        "update public.customer",
        "shop.people",
        "update public.actor",
        "valid_to=\"infinity\"",
        "update public.staff",
        "password=\"*\"",
        "month=\"01\"",
    ] {
        assert!(tried.contains(said), "{said}: {tried}");
    }
}
