/* The life of one job: a coordinator with a journal, two workers, and a network that loses, repeats and delays messages.
 *
 * What is left out: more jobs (they touch each other only through free slots), the contents of results, the steps of a
 * publication after the release (each is idempotent and journalled). docs/scheduling.md, protocol/README.md section 5.
 *
 * spin -a farm.pml && cc -O2 -DSAFETY -o pan pan.c && ./pan
 */

#define WORKERS 2
#define TRIES 3     /* attempts before the job is given up */
#define CRASHES 2   /* of the coordinator */
#define DEATHS 2    /* of workers */

/* The journal: survives crashes; each atomic block that writes it is one transaction. */
mtype = { queued, running, publishing, succeeded, failed };
mtype job = queued;
byte attempt = 0;            /* the newest attempt's number; 0 for none */
byte holder = 255;           /* who holds it; 255 for nobody */
byte results = 0;            /* results that were accepted */
byte releases = 0;           /* releases that became visible */
byte accepted = 0;           /* the attempt whose result was accepted */

/* The coordinator's memory. */
bool heard[WORKERS];         /* the lease clock runs */

/* The workers' memory: what each runs, and whether it is done with it. */
byte mine[WORKERS];
bool done[WORKERS];

/* What is on its way: one STATE and one DESIRED for each worker; a new one overtakes the old. */
bool stateSent[WORKERS];
byte stateAttempt[WORKERS];
bool stateDone[WORKERS];
bool desiredSent[WORKERS];
byte desiredAttempt[WORKERS];

byte crashes = 0;
byte deaths = 0;

/* Nobody holds a lease whose job is not running; at most one result; at most one release, of the accepted result. */
#define SOUND (results <= 1 && releases <= 1 \
    && (releases == 0 || results == 1) \
    && (holder == 255 || job == running) \
    && (job != running || holder != 255) \
    && (job != failed || attempt >= TRIES))

inline lose() {
    holder = 255;
    if
    :: attempt >= TRIES -> job = failed
    :: else -> job = queued
    fi
}

/* The coordinator handles one STATE: takes a result, gives up what a restarted worker lost, assigns, answers. */
inline exchange(w) {
    heard[w] = true;
    if
    :: job == running && holder == w && stateAttempt[w] == attempt && stateDone[w] ->
        results++;
        accepted = attempt;
        holder = 255;
        job = publishing
    :: job == running && holder == w && stateAttempt[w] == 0 && confirmed ->
        /* The worker no longer speaks of an attempt that it had confirmed: it was restarted. */
        lose()
    :: job == queued && stateAttempt[w] == attempt && attempt > 0 && stateAttempt[w] != 0 ->
        /* A worker that was silent comes back with the newest attempt: it keeps it. */
        holder = w;
        job = running;
        confirmed = true
    :: else -> skip
    fi;
    if
    :: job == running && holder == w && stateAttempt[w] == attempt -> confirmed = true
    :: else -> skip
    fi;
    if
    :: job == queued && stateAttempt[w] == 0 && attempt < TRIES ->
        attempt++;
        holder = w;
        confirmed = false;
        job = running
    :: else -> skip
    fi;
    desiredSent[w] = true;
    if
    :: job == running && holder == w -> desiredAttempt[w] = attempt
    :: else -> desiredAttempt[w] = 0
    fi;
    stateSent[w] = false
}

bool confirmed = false;      /* the holder has spoken of its attempt; in the journal: running instead of assigned */

active proctype coordinator() {
    do
    :: atomic { stateSent[0] -> exchange(0) }
    :: atomic { stateSent[1] -> exchange(1) }
    /* Silence: a lease ends, whatever the worker does. */
    :: atomic { job == running && holder != 255 -> heard[holder] = false; lose() }
    /* The release is made and shown in one step of the publication, which a crash may repeat. */
    :: atomic { job == publishing ->
        if
        :: releases == 0 -> releases++
        :: else -> skip
        fi;
        job = succeeded }
    /* A crash: memory is lost, the journal stays, lease clocks start anew. */
    :: atomic { crashes < CRASHES -> crashes++; heard[0] = false; heard[1] = false; desiredSent[0] = false; desiredSent[1] = false }
    :: atomic { (job == succeeded || job == failed) -> break }
    od
}

proctype worker(byte w) {
    do
    /* Says what it is doing. */
    :: atomic { !stateSent[w] -> stateSent[w] = true; stateAttempt[w] = mine[w]; stateDone[w] = done[w] }
    /* Obeys: starts what is new, kills what is not wanted, forgets what was heard. */
    :: atomic { desiredSent[w] ->
        desiredSent[w] = false;
        if
        :: desiredAttempt[w] != mine[w] -> mine[w] = desiredAttempt[w]; done[w] = false
        :: else -> skip
        fi }
    /* Finishes what it runs. */
    :: atomic { mine[w] != 0 && !done[w] -> done[w] = true }
    /* The network loses what is on its way. */
    :: atomic { stateSent[w] -> stateSent[w] = false }
    :: atomic { desiredSent[w] -> desiredSent[w] = false }
    /* Is killed and starts again with nothing. */
    :: atomic { deaths < DEATHS -> deaths++; mine[w] = 0; done[w] = false; stateSent[w] = false }
    :: atomic { (job == succeeded || job == failed) -> break }
    od
}

active proctype watch() { assert(SOUND) }

init {
    atomic { run worker(0); run worker(1) }
}

/* A job is never lost: it ends, or some order of events still ends it (no state without a way on: pan finds invalid end states). */
