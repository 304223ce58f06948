# julia --project=ENV compile_kernels.jl FOLDER PACKAGES NAME...
#
# Compiles packages of kernels that PySemi.jl has written into FOLDER, for later processes.
# PACKAGES is the folder that PySemi.jl itself lies in, ENV its environment. Several of these
# may run at once, and any may be killed: Julia's images appear as a whole.

using FileWatching.Pidfile: mkpidlock

const DAY = 24 * 3600

"Packages kept in a folder; those not used for longest go first."
const MOST_PACKAGES = 200

function compile(folder, name)
    place = joinpath(folder, name)
    # Whoever is at it is waited for, but not one that is no more: its lock is no longer touched.
    lock = mkpidlock(joinpath(place, "compiling.pid"); stale_age = 10)
    try
        package = Base.identify_package(name)
        package === nothing && return
        Base.isprecompiled(package) || Base.compilecache(package, devnull, devnull)
        rm(joinpath(place, "failed"); force = true)
    catch error
        write(joinpath(place, "failed"), sprint(showerror, error))
    finally
        close(lock)
    end
    return
end

last_used(place) = mtime(joinpath(place, "used"))

packages_in(folder) =
    filter(place -> isfile(joinpath(place, "Project.toml")), readdir(folder; join = true))

function remove(folder, place)
    images = joinpath(folder, "compiled")
    for version in (isdir(images) ? readdir(images; join = true) : String[])
        rm(joinpath(version, basename(place)); force = true, recursive = true)
    end
    rm(place; force = true, recursive = true)
    return
end

"Remove what has not been used for long here, and the folders of images of PySemi.jl that are gone."
function prune(folder)
    places = sort!(packages_in(folder); by = last_used, rev = true)
    foreach(place -> remove(folder, place), places[(MOST_PACKAGES + 1):end])
    for other in filter(isdir, readdir(dirname(folder); join = true))
        other == folder && continue
        used = maximum(last_used, packages_in(other); init = mtime(other))
        time() - used > 30 * DAY && rm(other; force = true, recursive = true)
    end
    return
end

function main(folder, packages, names...)
    pushfirst!(DEPOT_PATH, folder)
    push!(LOAD_PATH, packages, folder)
    foreach(name -> compile(folder, name), names)
    return prune(folder)
end

main(ARGS...)
