-- Other types on the target that take the source's text
-- [source]
create table t(id int primary key, a smallint, b varchar(10), c timestamp, d json);
-- [target]
create table t(id bigint primary key, a numeric, b text, c timestamp(6), d jsonb);
-- [changes]
insert into t values (1, 1, 'x', '2020-01-01', '{"a": 1}'), (2, -1, '', null, null);
update t set a = 7, d = '[]' where id = 2;
update t set id = 3 where id = 1;
