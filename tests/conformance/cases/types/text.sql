-- Strings: empty, blank-padded, with every kind of quote, backslash and line end
-- [schema]
create table t(id int primary key, a text, b varchar(20), c char(10), d name, e varchar);
create table padded(c char(5) primary key, v text);
create table whole(a text, c char(4));
alter table whole replica identity full;
-- [changes]
insert into t values (1, '', '', '', '', ''), (2, null, null, null, null, null), (3, 'NULL', 'null', 'NULL', 'null', E'\\N'),
    (4, E'a\nb\r\nc\td\be\ff\vg', E'\n', E'\t', E'x\ty', E'\\.'), (5, 'it''s "q" $1 $$ \ % _', '''', '"', '\', E'\\\\'),
    (6, '日本語 🐘 é ‮ x', 'ß', 'Ä', 'Öl', E'\u0001\u007f\u0085\u2028\ufeff'), (7, E'{a,"b"}', '(1,2)', '[1]', '{}', ',');
insert into t select 8, string_agg(chr(i), '' order by i), null, null, null, null from generate_series(1, 55295) i;
insert into padded values ('a', 'x'), ('a b', 'y'), ('', 'z'), ('  c', 'w');
update padded set v = v || c || '|';
update padded set c = 'b' where c = 'a';
delete from padded where c = '';
insert into whole values ('x', 'a'), ('x ', 'a'), ('x', 'a   '), ('', ''), (null, '');
delete from whole where ctid = (select max(ctid) from whole where a = 'x');
update whole set a = 'x' where a = '';
update whole set c = null where a is null;
update t set a = e, e = a;
