-- Columns added to the target by --on-schema-change add-columns, within a transaction too
-- [with PGSLUICE_ON_SCHEMA_CHANGE=add-columns]
-- [schema]
create type mood as enum ('sad', 'happy');
create table t(id int primary key, v text);
-- [changes]
insert into t values (1, 'a');
alter table t add column n numeric(10, 2), add column "M m" mood[];
insert into t values (2, 'b', 1.25, '{sad}');
begin; update t set n = 5; alter table t add column later timestamptz(3); update t set later = '2020-01-01 00:00:00.1239+00' where id = 1; commit;
