-- Values of 20 MB, compressible and not, beside small ones
-- [schema]
create table t(id int primary key, a text, b bytea);
alter table t alter column b set storage external;
-- [changes]
insert into t select 1, repeat('0123456789', 2000000), null;
insert into t select 2, 'small', decode(repeat(md5('x'), 640000), 'hex');
update t set a = a || '!' where id = 1;
update t set a = 'still small' where id = 2;
insert into t values (3, '', '');
delete from t where id = 1;
