-- Bytes of a SQL_ASCII source that are no UTF-8 are refused by a UTF8 target, with the byte sequence
-- [source encoding SQL_ASCII]
-- [refused by follow: invalid byte sequence for encoding "UTF8"]
-- [schema]
create table t(id int primary key, v text);
-- [changes]
insert into t values (1, 'é');
insert into t values (2, E'\377');
