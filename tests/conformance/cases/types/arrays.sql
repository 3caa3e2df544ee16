-- Arrays: empty, NULL elements, many dimensions, other lower bounds, quotes
-- [schema]
create table t(id int primary key, i int[], s text[], n numeric[][], b boolean[], ts timestamptz[], e bytea[]);
create table whole(i int[], s text[]);
alter table whole replica identity full;
-- [changes]
insert into t values (1, '{}', '{}', '{}', '{}', '{}', '{}'), (2, '{1,NULL,3}', '{NULL,"NULL","",a b,"{}","\"","\\",","}', '{{1.0,2},{NULL,NaN}}', '{t,f,NULL}', '{infinity,NULL}', '{"\\x00"}'),
    (3, '[0:2]={1,2,3}', '[-1:0][5:5]={{a},{b}}', '{{{1}}}', null, null, null), (4, array_fill(7, '{2,2,2,2,2,2}'), array[E'\n\t', 'é'], null, null, null, null);
insert into t select 5, array_agg(i), array_agg(md5(i::text)), null, null, null, null from generate_series(1, 20000) i;
update t set i = i || 9 where id in (1, 2, 5);
update t set s[3] = 'set' where id = 1;
insert into whole values ('{1}', '{}'), ('[0:0]={1}', '{}'), ('{}', '{NULL}'), ('{}', null);
delete from whole where array_lower(i, 1) = 0;
update whole set s = '{x}' where s is null;
