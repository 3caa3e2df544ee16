-- json keeps blanks and double keys; jsonb its own form; both without a key
-- [schema]
create table t(id int primary key, j json, b jsonb, a json[], ba jsonb[]);
create table whole(j json, b jsonb);
alter table whole replica identity full;
-- [changes]
insert into t values (1, '{"a" : 1,  "a":2 }', '{"a" : 1,  "a":2 }', array['{"x": [1, 2]}', '"q\"uote"']::json[], '{}'),
    (2, 'null', 'null', null, array['null', null]::jsonb[]), (3, '"\u0041\n\\ \ud83d\ude00"', '"\u0041\n\\ \ud83d\ude00"', '{}', null),
    (4, '1.0e5', '12345678901234567890.1234567890123456789000', null, null), (5, E' [ 1 ,\n2 ] ', '[]', null, null);
update t set b = jsonb_set(b, '{z}', '"new"') where id = 1;
insert into whole values ('{"a": 1}', '1.0'), ('{"a":1}', '1.0'), ('{"a":1}', '1.00'), (null, '[1.0]'), (null, '[1.00]');
delete from whole where j::text = '{"a":1}' and b::text = '1.0';
update whole set j = '{}' where b::text = '[1.00]';
