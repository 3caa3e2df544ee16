-- Geometric types, whose = compares areas or not at all
-- [schema]
create table t(id int primary key, p point, l line, s lseg, b box, pa path, po polygon, c circle);
create table whole(p point, b box, c circle);
alter table whole replica identity full;
-- [changes]
insert into t values (1, '(1.5,-2e300)', '{1,2,3}', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1),(2,0)]', '((0,0),(1,1),(2,0))', '<(1,2),3>'),
    (2, '(NaN,Infinity)', '{0,1,-0}', '[(1,1),(1,1)]', '(0,0),(0,0)', '((0,0),(1,1))', '((0,0))', '<(0,0),0>');
insert into whole values ('(1,2)', '(1,1),(0,0)', '<(0,0),1>'), ('(1,2)', '(2,0.5),(0,0)', '<(5,5),1>'), ('(1,2)', '(4,0.25),(0,0)', null), (null, null, null);
delete from whole where b ~= '(2,0.5),(0,0)';
update whole set p = '(0.1,0.2)' where b ~= '(4,0.25),(0,0)';
delete from whole where b is null;
update t set p = p + point '(1,1)', c = null;
