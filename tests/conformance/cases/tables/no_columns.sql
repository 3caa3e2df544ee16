-- A table without columns and one with only generated ones
-- [setup --keyless full]
-- [schema]
create table nothing();
create table derived(g int generated always as (1) stored);
-- [changes]
insert into nothing default values;
insert into nothing default values;
insert into derived default values;
truncate derived;
insert into derived default values;
