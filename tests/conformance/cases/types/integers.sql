-- Integers to their ends, booleans, oids
-- [schema]
create table t(id int primary key, a smallint, b integer, c bigint, d oid, e boolean, f "char", g xid, h cid, i tid);
-- [changes]
insert into t values
    (1, -32768, -2147483648, -9223372036854775808, 0, true, 'x', '4294967295', '7', '(0,1)'),
    (2, 32767, 2147483647, 9223372036854775807, 4294967295, false, '', '3', '0', '(4294967295,65535)'),
    (3, null, null, null, null, null, null, null, null, null);
update t set a = 0, b = 0, c = 0, e = not e where id = 2;
update t set f = '\377' where id = 1;
delete from t where id = 3;
