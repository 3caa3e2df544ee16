-- json into jsonb would lose blanks and doubled keys, so it is refused; as json, the same command goes on
-- [refused by follow: column "d" of table public.t is json on the source and jsonb on the target]
-- [source]
create table t(id int primary key, d json);
-- [target]
create table t(id int primary key, d jsonb);
-- [changes]
insert into t values (1, '{"a" : 1, "a":2}');
-- [mend]
alter table t alter d type json;
