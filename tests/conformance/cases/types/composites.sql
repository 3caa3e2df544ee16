-- Composites: nested, in arrays, with NULL fields and quotes, as key
-- [schema]
create type place as (x int, y text);
create type deep as (p place, many place[], r int4range);
create table t(id place primary key, d deep, l place[]);
create table whole(p place);
alter table whole replica identity full;
-- [changes]
insert into t values ('(1,a)', row(row(1, 'it''s, "q" \ ()'), array[row(2, null), row(null, '')]::place[], '[1,3)')::deep, '{"(1,a)","(,)",NULL}'),
    ('(2,"")', null, '{}'), ('(3,)', row(null, null, null)::deep, null);
update t set d.p.y = 'changed' where (id).x = 1;
update t set id.y = 'moved' where (id).x = 2;
insert into whole values ('(1,a)'), ('(,)'), (null), ('(1,)');
delete from whole where p::text = '(1,)';
update whole set p.x = 5 where p::text = '(,)';
