-- Tables without columns, and with identities only
-- [setup --keyless full]
-- [schema]
create table nothing();
create table derived(g int generated always as identity);
-- [changes]
insert into nothing default values;
insert into nothing default values;
insert into derived default values;
truncate derived;
insert into derived default values;
