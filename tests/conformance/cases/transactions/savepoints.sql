-- Savepoints: released, rolled back, nested, with exceptions in between
-- [schema]
create table t(id int primary key, v text);
-- [changes]
begin;
insert into t values (1, 'kept');
savepoint a; insert into t values (2, 'lost'); savepoint b; insert into t values (3, 'lost too'); release b; rollback to a;
insert into t values (2, 'second try'); savepoint c; update t set v = 'x' where id = 1; release c; savepoint d; delete from t; rollback to d;
commit;
do $$ begin
    for i in 10 .. 90 loop
        begin
            insert into t values (i, 'loop');
            if i % 3 = 0 then raise 'no'; end if;
            begin insert into t values (i, 'double'); exception when unique_violation then update t set v = 'again' where id = i; end;
        exception when raise_exception then null;
        end;
    end loop;
end $$;
begin; insert into t values (100, 'never'); rollback;
