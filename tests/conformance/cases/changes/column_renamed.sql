-- A column renamed on the source is a stop; renamed on the target too, the same command goes on
-- [refused by follow: column "v"]
-- [schema]
create table t(id int primary key, a text);
-- [changes]
insert into t values (1, 'a');
alter table t rename column a to v;
update t set v = 'b';
-- [mend]
alter table t rename column a to v;
