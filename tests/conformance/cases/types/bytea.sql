-- Every byte, alone and in arrays, domains and keys
-- [schema]
create domain digest as bytea;
create table t(id bytea primary key, b bytea, many bytea[], own digest);
-- [changes]
insert into t select decode(lpad(to_hex(i), 2, '0'), 'hex'), decode(repeat(lpad(to_hex(i), 2, '0'), 5), 'hex'),
    array[decode(lpad(to_hex(i), 2, '0'), 'hex'), null, ''::bytea], decode(lpad(to_hex(i), 2, '0'), 'hex') from generate_series(0, 255) i;
insert into t select '', string_agg(decode(lpad(to_hex(i), 2, '0'), 'hex'), '' order by i), '{}', '' from generate_series(0, 255) i;
update t set b = id || b where id < '\x20';
delete from t where id = '\x00';
update t set id = id || '\x00' where id = '\xff';
